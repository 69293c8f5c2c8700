"""Former results of a step, and why they do not serve now."""

from __future__ import annotations

from itertools import islice

from flows.planning.key_diff import KeyDifference, differences
from flows.python.declared import Declarations
from flows.store.keys import Key
from flows.store.records import Record
from flows.store.runs import Run, Runs
from flows.store.store import Store
from flows.store.views import RecordViews
from flows.wiring.model import Graph, Node
from flows.wiring.views import View

_RUNS = 10
"""Former runs of the pipeline that are looked at."""
_NEAREST = 30
"""Former records of a task that are compared, where the pipeline never had the step."""


def _lost(key: Key) -> str:
    return "its former result is gone" if "inputs" in key.parts else "its inputs must run first"


class FormerRecords:
    """What a store remembers of the steps of a graph."""

    def __init__(self, store: Store, graph: Graph, declared: Declarations | None = None) -> None:
        self._store, self._graph, self._views = store, graph, RecordViews(store, declared)
        self.entries = store.index.entries()
        self.fixed = frozenset(e.fixed for e in self.entries.values())
        """Digests of the parts without inputs of all records."""
        self._records: dict[str, Record | None] = {}
        self._runs: list[Run] = list(islice(Runs(store).newest(graph.pipeline), _RUNS))

    def why(self, node: Node, key: Key) -> str:
        """Why a step must run: what its key has other than the last record of that step in this pipeline."""
        former = self.of_step(node)
        if former is None and node.round and self._other_rounds(node):
            return f"round {node.round} has not run before"
        if former is None:
            return self._elsewhere(node, key)
        found = self._differences(node, former, key)
        return f"because {found}" if found else _lost(key)

    def _elsewhere(self, node: Node, key: Key) -> str:
        """What to say of a step that the pipeline has not run: which result of the same task comes nearest."""
        nearest = self._nearest(node, key)
        if nearest is None:
            return "never run"
        found = self._differences(node, nearest, key)
        if not found:
            return _lost(key)
        of = f"`{nearest.task}` {nearest.content[:8]}"
        for run in islice(Runs(self._store).newest(), _RUNS):
            step = next((s for s in run.steps.values() if s.key == nearest.key), None)
            if step:
                of = f"`{step.id}` of {run.title}"
                break
        return f"never run in this pipeline (nearest: {of}, but {found})"

    def _differences(self, node: Node, former: Record, key: Key) -> str:
        """The first two differences in words, and how many more there are; empty if there is none."""
        said = [self._said(node, former, d) for d in differences(former, key)]
        return ", ".join(said[:2]) + (f" and {len(said) - 2} more" if len(said) > 2 else "")

    def of_step(self, node: Node) -> Record | None:
        """The record of the step in the pipeline's last run that had a result for it."""
        for run in self._runs:
            for address in node.addresses:
                step = next((s for s in run.steps.values() if address in s.addresses), None)
                record = self._record(step.key) if step and step.key and step.task == node.task else None
                if record:
                    return record
        return None

    def of_task(self, node: Node) -> tuple[Record, View] | None:
        """A former record of the same task, with its view: of this step, of the step in another round, or the newest
        of all."""
        record = self.of_step(node)
        same = [e for e in self.entries.values() if e.task == node.task] if record is None else []
        if same:
            record = self._record(max(same, key=lambda e: e.made).key)
        return (record, self._views.of(record)) if record else None

    def _nearest(self, node: Node, key: Key) -> Record | None:
        """The record of the same task with the fewest differences."""
        same = sorted((e for e in self.entries.values() if e.task == node.task), key=lambda e: e.made)
        records = [r for e in reversed(same[-_NEAREST:]) if (r := self._record(e.key))]
        return min(records, key=lambda r: len(differences(r, key)), default=None)

    def _record(self, key: str) -> Record | None:
        if key not in self._records:
            self._records[key] = self._store.record(key)
        return self._records[key]

    def _other_rounds(self, node: Node) -> bool:
        name = node.id.rpartition("@")[0]
        return any(a.rpartition("@")[0] == name for r in self._runs for s in r.steps.values() for a in s.addresses)

    def _said(self, node: Node, former: Record, difference: KeyDifference) -> str:
        """A difference in words; inputs by the names of the steps that feed them."""
        ids = node.inputs.get(difference.name)
        if difference.part != "inputs" or not ids:
            return difference.text
        names = ", ".join(f"`{i}`" for i in ids)
        before = [self.entries[p.key].task for p in former.parents.get(difference.name, ()) if p.key in self.entries]
        now = [self._graph.nodes[i].task for i in ids]
        return f"{names} came out different" if before == now else f"`{difference.name}` is fed by {names} now"
