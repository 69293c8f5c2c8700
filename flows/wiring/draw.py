"""The graph as text or as a Mermaid flowchart, with the state of every step in colour."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from flows.wiring.model import Graph, Node

_ANSI = {"cached": "32", "partial": "33", "run": "36", "open": "35", "done": "32", "failed": "31", "running": "34"}
_FILL = {
    "cached": "#c8e6c9", "partial": "#fff3c4", "run": "#cfe8fc", "open": "#e6d7f5", "done": "#c8e6c9",
    "failed": "#f8c9c9", "running": "#b3d1ff",
}  # fmt: skip
STATES = tuple(_ANSI)
"""States that have a colour: those of a plan, then those of a run."""


def draw_graph(
    graph: Graph, style: Literal["text", "mermaid"] = "text", states: Mapping[str, str] | None = None, *,
    colour: bool = False,
) -> str:  # fmt: skip
    """Draw a graph.

    Args:
        graph: what is drawn.
        style: `text`: a line per step, below what feeds it; `mermaid`: a flowchart.
        states: node id → a state of `STATES`.
        colour: text with ANSI colours.
    """
    lines = _text(graph, states or {}, colour) if style == "text" else _mermaid(graph, states or {})
    return "\n".join(lines) + "\n"


def _groups(graph: Graph) -> dict[int | None, list[Node]]:
    """Nodes by round, in the graph's order; those after the loop come last, under round 0."""
    groups: dict[int | None, list[Node]] = {}
    for node in graph.nodes.values():
        after = node.round is None and any(r for r in groups)
        groups.setdefault(0 if after else node.round, []).append(node)
    return groups


def _title(round: int | None) -> str:
    return f"round {round}" if round else ("after the rounds" if round == 0 else "before the rounds")


def _text(graph: Graph, states: Mapping[str, str], colour: bool) -> Iterator[str]:
    groups = _groups(graph)
    names = {node.id: node.id.split("@")[0] for node in graph.nodes.values()}
    width = max(map(len, names.values()), default=0)
    tasks = max((len(n.task) + len(n.kind) for n in graph.nodes.values()), default=0) + 3
    for round, nodes in groups.items():
        if len(groups) > 1:
            yield _title(round)
        for node in nodes:
            does = f"{node.task} → {node.kind}"
            line = f"  {names[node.id]:{width}}  {does:{tasks}}  {_inputs(node)}".rstrip()
            state = states.get(node.id, "")
            line += f"  [{state}]" if state else ""
            yield f"\033[{_ANSI[state]}m{line}\033[0m" if colour and state in _ANSI else line


def _inputs(node: Node) -> str:
    sources = {port: f"[{', '.join(ids)}]" if port in node.lists else ids[0] for port, ids in node.inputs.items()}
    return "← " + ", ".join(f"{port}: {source}" for port, source in sources.items()) if sources else ""


def _mermaid(graph: Graph, states: Mapping[str, str]) -> Iterator[str]:
    numbers = {node: f"n{i}" for i, node in enumerate(graph.nodes)}
    groups = _groups(graph)
    yield "flowchart TD"
    for i, (round, nodes) in enumerate(groups.items()):
        if len(groups) > 1:
            yield f'  subgraph g{i}["{_title(round)}"]'
        for node in nodes:
            state = states.get(node.id, "")
            mark = f":::{state}" if state in _FILL else ""
            name = re.sub(r'["<>\[\]]', "", node.id.split("@")[0])
            yield f'    {numbers[node.id]}["{name}<br/>{node.task} → {node.kind}"]{mark}'
        if len(groups) > 1:
            yield "  end"
    for node in graph.nodes.values():
        for port, ids in node.inputs.items():
            yield from (f"  {numbers[i]} -->|{port}| {numbers[node.id]}" for i in ids)
    for state in sorted(set(states.values()) & set(_FILL)):
        yield f"  classDef {state} fill:{_FILL[state]}"
