"""What a run would do: for each step whether its result is in the store, why not, and what it will cost.

A plan computes no result; it sets damaged results aside, as a run would.

States: `cached`; `partial` (an earlier attempt left work to go on from); `run`; `open` (its input must run first; it
is cached if that comes out equal).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flows.planning.costs import StepCost, step_cost, total
from flows.planning.explain import FormerRecords
from flows.planning.memory import check_memory, memory_json, memory_text
from flows.python.declared import Declarations
from flows.store.keys import Choices
from flows.store.records import Record
from flows.store.retained import CARRIED, carried_record
from flows.store.store import Store
from flows.wiring import machine
from flows.wiring.model import Graph, Node
from flows.wiring.prechecks import check_step_files
from flows.wiring.views import View, view_of_node
from tasks.contract import JSON, DataError, SpecError
from tasks.declarations import Machine, Memory

State = Literal["cached", "partial", "run", "open"]


@dataclass(frozen=True)
class Planned:
    """One step of a plan."""

    node: Node
    state: State
    why: str
    key: str
    """Empty while an input is not known."""
    record: Record | None
    cost: StepCost
    memory: Memory | None = None
    """What it needs at its peak; None where that is not known, or it is cached."""
    ranks: int = 1
    """Processes that share its work."""

    @property
    def needs_text(self) -> str:
        """`  [15 steps · 12 s · 9.6 GiB per device]`; empty for a step that is cached or needs next to nothing."""
        ranks = f"{self.ranks} ranks" if self.ranks > 1 else ""
        needs = [text for text in (self.cost.text(), ranks, memory_text(self.memory)) if text]
        return f"  [{' · '.join(needs)}]" if needs and self.state != "cached" else ""

    def as_json(self) -> JSON:
        return {
            "step": self.node.id, "addresses": list(self.node.addresses), "title": self.node.title,
            "task": self.node.task, "kind": self.node.kind, "state": self.state, "why": self.why, "key": self.key,
            "content": self.record.content if self.record else "", "cost": self.cost.as_json(),
            "memory": memory_json(self.memory), "ranks": self.ranks,
        }  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A graph against a store."""

    graph: Graph
    steps: tuple[Planned, ...]
    notices: tuple[str, ...] = ()
    """Those of the graph, and mistakes in what its tasks declare."""

    @property
    def states(self) -> dict[str, str]:
        """State by node id."""
        return {s.node.id: s.state for s in self.steps}

    @property
    def total(self) -> StepCost:
        """The most that all steps that are not cached cost, as far as it is known."""
        return total(s.cost for s in self.steps if s.state != "cached")

    def counts(self) -> dict[State, int]:
        states: tuple[State, ...] = ("cached", "partial", "run", "open")
        return {state: sum(s.state == state for s in self.steps) for state in states}

    def as_json(self) -> JSON:
        counts: dict[str, JSON] = {state: n for state, n in self.counts().items()}  # noqa: C416
        return {
            "pipeline": self.graph.pipeline, "counts": {**counts}, "total": self.total.as_json(),
            "notices": list(self.notices), "steps": [s.as_json() for s in self.steps],
        }  # fmt: skip

    def text(self) -> str:
        """The plan as people read it, one line per step."""
        names = {"cached": "cached", "partial": "partly done", "run": "to run", "open": "open"}
        width = max((len(s.node.title) for s in self.steps), default=0)
        lines = [f"{names[s.state]:<11}  {s.node.title:<{width}}  {s.why}{s.needs_text}".rstrip() for s in self.steps]
        counts = " · ".join(f"{n} {names[state]}" for state, n in self.counts().items() if n)
        legend = ["open: cached if what it waits for comes out as before"] if self.counts()["open"] else []
        total = self.total.text()
        limit = f"{total}, and what is not known yet" if self.total.more else f"at most {total}"
        return "\n".join([*lines, "", *legend, f"{counts}; {limit}" if total else counts])


def make_plan(graph: Graph, store: Store) -> Plan:
    """Plan a run of `graph` against `store`, for the code as it stands. Never uses the network.

    Raises SpecError where a key cannot be computed, e.g. because a file that a source reads is not there, where the
    files that a step reads show that it can only fail, and for a step that needs more memory than the machine has;
    DataError where a key needs the network.
    """
    code = store.code(graph.packages)
    choices = Choices(code, store.contents, Path(graph.file).parent)
    declared = Declarations(code.codebase)
    planner = _Planner(graph, store, choices, declared)
    steps = tuple(planner.step(node) for node in graph.nodes.values())
    plan = Plan(graph, steps, (*graph.notices, *declared.notices))
    code.codebase.save()
    store.contents.save()
    check_step_files(graph, [planner.views[s.node.id] for s in steps if s.state != "cached"], declared)
    for step in steps:
        check_memory(step.node, graph.pipeline, step.memory, planner.machine_of(step.node))
        if step.state != "cached":
            _check_gpus(step, planner.views[step.node.id], graph)
    return plan


def _check_gpus(step: Planned, view: View, graph: Graph) -> None:
    """Raise SpecError, at the step's place, for one that needs more GPUs than a run may use."""
    there = graph.profile.gpus or len(machine.usable_gpus())
    needed = view.resources.gpus * step.ranks
    if there and needed > there:
        place = f"{step.node.where}: {graph.pipeline}.{step.node.id}"
        raise SpecError(f"{place} needs {needed} GPUs at a time, and this run may use {there}")


def refuse_early(graph: Graph, store: Store) -> None:
    """Raise SpecError for what `make_plan` would refuse; nothing where only a run can plan (hub ids)."""
    with suppress(DataError):
        make_plan(graph, store)


class _Planner:
    """One pass over the nodes, inputs first."""

    def __init__(self, graph: Graph, store: Store, choices: Choices, declared: Declarations) -> None:
        self.graph, self.store, self.choices, self.declared = graph, store, choices, declared
        self.machine = machine.this_machine()
        self.base = Path(graph.file).absolute().parent
        self.former = FormerRecords(store, graph, declared)
        self.records: dict[str, Record | None] = {}
        self.views: dict[str, View] = {}

    def step(self, node: Node) -> Planned:
        if node.task == CARRIED:
            carried = carried_record(self.store, node)
            self._enter(node, carried)
            return Planned(node, "cached", "carried over from an earlier tick", carried.key, carried, StepCost())
        waits_for = [i for ids in node.inputs.values() for i in ids if self.records[i] is None]
        key, record, state, why = self._waiting(node, waits_for) if waits_for else self._ready(node)
        view = self._enter(node, record)
        if record:
            return Planned(node, state, why, key, record, StepCost())
        price = step_cost(view, self.former.of_task(node), self.declared)
        memory = view.memory(self.machine_of(node))
        return Planned(node, state, why, key, None, price, memory, self.graph.ranks_of(node))

    def machine_of(self, node: Node) -> Machine:
        """The machine as the ranks of a step use it."""
        return replace(self.machine, ranks=self.graph.ranks_of(node), sharding=self.graph.profile.sharding)

    def _enter(self, node: Node, record: Record | None) -> View:
        rows = float(record.rows) if record and record.rows is not None else None
        folder = self.store.root / record.path if record else None
        self.records[node.id] = record
        view = self.views[node.id] = view_of_node(node, self.views, self.declared, self.base, rows, folder)
        _ = view.size  # inputs first, or thousands of rounds would be one recursion
        return view

    def _ready(self, node: Node) -> tuple[str, Record | None, State, str]:
        inputs = {port: [r.content for i in ids if (r := self.records[i])] for port, ids in node.inputs.items()}
        key = self.choices.prepare(node).key(inputs)
        found = self.store.lookup(key.digest)
        if found.record:
            accepted = "accepted, " if found.record.accepted else ""
            return key.digest, found.record, "cached", accepted + found.reason
        why = self.former.why(node, key) if found.reason == "never run" else found.reason
        return key.digest, None, "partial" if self.store.begun(key.digest) else "run", why

    def _waiting(self, node: Node, waits_for: list[str]) -> tuple[str, None, State, str]:
        key = self.choices.prepare(node).fixed
        if key.digest in self.former.fixed:
            first, *others = dict.fromkeys(waits_for)
            return "", None, "open", f"waits for `{first}`{f' and {len(others)} more' if others else ''}"
        return "", None, "run", self.former.why(node, key)
