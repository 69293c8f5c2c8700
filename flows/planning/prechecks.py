"""Refusals of what `tasks.glances` sees before any step: in the wiring at compile time, in files by a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from flows.planning.costs import Size, node_sizes, result_size
from flows.wiring.model import ChoiceValue, Graph, Node
from flows.wiring.tree import Missing
from tasks.contract import Chosen, DataError, SpecError, WorldSpec
from tasks.glances import READING, WIRING, StepPreview


def check_wiring(graph: Graph, worlds: Mapping[str, WorldSpec]) -> None:
    """Raise SpecError, at its place, for the first step that can only fail as it is wired."""
    if any(node.task in WIRING for node in graph.nodes.values()):
        _check(graph, graph.nodes.values(), WIRING, worlds)


def check_step_files(graph: Graph, nodes: Iterable[Node]) -> None:
    """The same for what these steps read, where that costs next to nothing."""
    several = list(nodes)
    if any(node.task in READING for node in several):
        _check(graph, several, READING)


def _check(
    graph: Graph, nodes: Iterable[Node], glances: Mapping[str, Callable[[StepPreview], None]],
    worlds: Mapping[str, WorldSpec] = MappingProxyType({}),
) -> None:  # fmt: skip
    seen = _seen(graph, worlds)
    for node in (n for n in nodes if n.task in glances):
        try:
            glances[node.task](seen[node.id])
        except (SpecError, DataError) as e:
            raise SpecError(f"{node.where}: {graph.pipeline}.{node.id}: {e}") from None


def _seen(graph: Graph, worlds: Mapping[str, WorldSpec]) -> dict[str, StepPreview]:
    base = Path(graph.file).absolute().parent
    sizes: dict[str, Size] = {}
    found: dict[str, StepPreview] = {}
    for node in graph.nodes.values():
        sizes[node.id] = result_size(node.task, node.params, node_sizes(node, sizes))
        inputs = {port: [found[i] for i in ids] for port, ids in node.inputs.items()}
        choices = {n: Chosen(v.folder, v.name, v.params) for n, v in node.params.items() if isinstance(v, ChoiceValue)}
        plain = {n: v for n, v in node.params.items() if not isinstance(v, ChoiceValue | Missing)}
        found[node.id] = StepPreview(node.task, plain, choices, inputs, sizes[node.id].k, base, worlds)
    return found
