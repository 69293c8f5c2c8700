"""Values that an earlier tick left: nodes of the task `carried`, which name a content and which nothing executes.

A key can get another result (`--fresh`, damage), and then its record names that one. So the records of what a ledger
names, and of all behind it, are kept beside the ledgers, as `<key>-<content>.json`: the value keeps its record and its
lineage, and `gc` leaves what they name.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flows.store.records import Parent, Record, read_record, write_record
from flows.store.store import KEPT, Store
from flows.system.locks import locked
from flows.wiring.model import Node
from tasks.contract import DataError

CARRIED = "carried"


def carried_record(store: Store, node: Node) -> Record:
    """The record of the value that a carried node names, intact. Raises DataError if it, or its base, is gone.

    It is the record of the step that made the value, so that its lineage goes on behind it.
    """
    content = str(node.params["digest"])
    for record in (*store.index.records(content), *store.kept.records(content)):
        if record.kind == node.kind and not store.check(record):
            store.references.of(record)
            return record
    raise DataError(f"{node.id} was {node.kind} {content}, which is gone")


def retain_values(store: Store, values: Iterable[Record], made: Iterable[Record]) -> None:
    """Keep the records of these values, and of all behind them. `made`: records of the run that left them.

    Records are written before those of the steps that used them, so that a kill leaves out the values: then the next
    call writes the rest.
    """
    known = {record.result: record for record in made}
    new: dict[Parent, Record] = {}
    todo = list(values)
    while todo:
        record = todo.pop()
        if record.result not in new and not kept_file(store, record.result).exists():
            new[record.result] = record
            for parent in record.inputs:
                todo += [known[parent]] if parent in known else makers(store, parent)
            for content in record.refers_to:
                todo += store.index.records(content)
    with locked(store.root / "locks" / "gc", shared=True):
        for result, record in reversed(new.items()):
            write_record(kept_file(store, result), record)


def makers(store: Store, parent: Parent) -> list[Record]:
    """The record of the step that made an input; where its key has another result now, the one that is kept beside the
    ledgers, else those of all steps that made the same."""
    record = store.record(parent.key)
    if record is None or record.content != parent.content:
        record = read_record(kept_file(store, parent))
    return [record] if record else store.index.records(parent.content)


def kept_file(store: Store, result: Parent) -> Path:
    """Where the record of a result is kept beside the ledgers, whatever becomes of its key."""
    return store.root / KEPT / f"{result.key}-{result.content}.json"
