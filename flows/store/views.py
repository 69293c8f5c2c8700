"""Steps of earlier runs as their declarations see them, from records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.python.declared import Declarations
from flows.store.records import Parent, Record
from flows.store.retained import makers
from flows.store.store import Store
from flows.wiring.model import ChoiceValue, Node
from flows.wiring.views import View


class RecordViews:
    """Views of records, each made once. The records of its inputs are read when a view's inputs are used."""

    def __init__(self, store: Store, declared: Declarations | None = None) -> None:
        self._store, self._declared = store, declared or store.declared
        self._views: dict[Parent, View | None] = {}

    def of(self, record: Record) -> View:
        """The view of a record. An input whose record is gone is left out."""

        def inputs() -> dict[str, list[View]]:
            fed = {port: [self._of_parent(p) for p in parents] for port, parents in record.parents.items()}
            return {port: [view for view in views if view] for port, views in fed.items()}

        rows = None if record.rows is None else float(record.rows)
        values: Any = record.parts.get("params") or {}
        params = {name: _from_json(value) for name, value in values.items()}
        folder = self._store.root / record.path
        return View(self._declared, record.task, record.kind, params, inputs, origin=record, rows=rows, folder=folder)

    def of_step(self, node: Node, inputs: Mapping[str, Sequence[Record]]) -> View:
        """The view of a step that has not run, whose inputs have."""
        fed = {port: [self.of(record) for record in several] for port, several in inputs.items()}
        params = {**node.params, **node.execution}
        return View(self._declared, node.task, node.kind, params, lambda: fed, origin=node)

    def _of_parent(self, parent: Parent) -> View | None:
        if parent not in self._views:
            record = next(iter(makers(self._store, parent)), None)
            self._views[parent] = self.of(record) if record else None
        return self._views[parent]


def _from_json(value: Any) -> Any:
    """A parameter's value; a choice is recognised by the form that `plain_value` gives it."""
    if not isinstance(value, dict) or not isinstance(value.get("choice"), str):
        return value
    folder, _, name = value["choice"].rpartition("/")
    return ChoiceValue(folder, name, value.get("params") or {})
