"""Former results of a step, and why they do not serve now."""

from __future__ import annotations

from functools import cache
from itertools import islice

from flows.planning.key_diff import KeyDifference, differences
from flows.python.declared import Declarations
from flows.store.index import IndexEntry
from flows.store.keys import Key
from flows.store.records import Record
from flows.store.runs import Run, Runs
from flows.store.store import Store
from flows.store.views import RecordViews
from flows.wiring.model import Graph, Node
from flows.wiring.views import View

_RUNS = 10
"""Earlier runs that are searched for a step."""
_NEAREST = 30
"""Earlier records of a task that are compared, where the pipeline never had the step."""


class FormerRecords:
    """The earlier results of the steps of a graph in a store."""

    def __init__(self, store: Store, graph: Graph, declared: Declarations | None = None) -> None:
        self._store, self._graph, self._views = store, graph, RecordViews(store, declared)
        self._entries = store.index.entries()
        self.fixed = frozenset(e.fixed for e in self._entries.values())
        """Digests of the parts without inputs of all records."""
        self._record = cache(store.record)
        self._runs: list[Run] = list(islice(Runs(store).newest(graph.pipeline), _RUNS))

    def why(self, node: Node, key: Key) -> str:
        """Why a step must run: how its key differs from the last record of that step in this pipeline."""
        former, name = self.of_step(node), node.id.rpartition("@")[0]
        addresses = (a for run in self._runs for step in run.steps.values() for a in step.addresses)
        if former is None and node.round and any(a.rpartition("@")[0] == name for a in addresses):
            return f"round {node.round} has not run before"
        nearest = former or self._nearest(node, key)
        if nearest is None:
            return "never run"
        texts = [self._text(node, nearest, difference) for difference in differences(nearest, key)]
        if not texts:
            return "its former result is gone" if "inputs" in key.parts else "its inputs must run first"
        reason = ", ".join(texts[:2]) + (f" and {len(texts) - 2} more" if len(texts) > 2 else "")
        if former:
            return f"because {reason}"
        return f"never run in this pipeline (nearest: {self._origin(nearest)}, but {reason})"

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
        """An earlier record of the task, with its view: of this step, of the step in another round, or the newest."""
        record = self.of_step(node)
        newest = max(self._of_same_task(node), key=lambda e: e.made, default=None) if record is None else None
        record = self._record(newest.key) if newest else record
        return (record, self._views.of(record)) if record else None

    def _nearest(self, node: Node, key: Key) -> Record | None:
        """The record of the same task with the fewest differences."""
        same = sorted(self._of_same_task(node), key=lambda e: e.made)
        records = [r for e in reversed(same[-_NEAREST:]) if (r := self._record(e.key))]
        return min(records, key=lambda r: len(differences(r, key)), default=None)

    def _of_same_task(self, node: Node) -> list[IndexEntry]:
        return [e for e in self._entries.values() if e.task == node.task]

    def _origin(self, record: Record) -> str:
        """The step of a late run that has the result; else the result itself."""
        for run in islice(Runs(self._store).newest(), _RUNS):
            step = next((s for s in run.steps.values() if s.key == record.key), None)
            if step:
                return f"`{step.id}` of {run.title}"
        return f"`{record.task}` {record.content[:8]}"

    def _text(self, node: Node, former: Record, difference: KeyDifference) -> str:
        """A difference in words; inputs by the names of the steps that feed them."""
        ids = node.inputs.get(difference.name)
        if difference.part != "inputs" or not ids:
            return difference.text
        names = ", ".join(f"`{i}`" for i in ids)
        before = [self._entries[p.key].task for p in former.parents.get(difference.name, ()) if p.key in self._entries]
        now = [self._graph.nodes[i].task for i in ids]
        return f"{names} came out different" if before == now else f"`{difference.name}` is fed by {names} now"
