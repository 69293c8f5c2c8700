"""Values that an earlier tick left: nodes of the task `carried`, which name a content and which nothing executes.

A key can get another result (`--fresh`, damage), and then its record names that one. So the records of what a ledger
names, and of all behind it, are kept beside the ledgers, as `<key>-<content>.json`: the value is still found and is
still what its lineage says, and `gc` leaves what they name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from flows.store.records import Parent, Record, read_record, write_record
from flows.store.store import Store
from flows.system.locks import locked
from flows.wiring.model import Node
from tasks.contract import DataError

CARRIED = "carried"
KEPT = "ledger/records"
"""Where the records of what ledgers name are, below the store."""


def carried_record(store: Store, node: Node) -> Record:
    """The record of the value that a carried node names, intact. Raises DataError if it is gone.

    It is the record of the step that made the value, so that its lineage goes on behind it.
    """
    content = str(node.params["digest"])
    for entry in store.index.of_content(content):
        record = store.record_of(entry.key) if entry.kind == node.kind else None
        if record and record.content == content:
            return record
    for entry in store.kept.of_content(content):
        record = read_record(kept_file(store, entry.result)) if entry.kind == node.kind else None
        if record and not store.check(record):
            return record
    raise DataError(f"{node.id} was {node.kind} {content}, which is gone")


def retain_values(store: Store, values: Iterable[Record], made: Iterable[Record]) -> None:
    """Keep the records of these values, and of all behind them. `made`: records of the run that left them.

    What was found last is written first, and the values last: what a kill leaves out is found the next time.
    """
    known = {Parent(r.key, r.content): r for r in made}
    new: dict[Parent, Record] = {}
    todo = list(values)
    while todo:
        record = todo.pop()
        result = Parent(record.key, record.content)
        if result not in new and not kept_file(store, result).exists():
            new[result] = record
            todo += _behind(store, record, known)
    with locked(store.root / "locks" / "gc", shared=True):
        for result, record in reversed(new.items()):
            write_record(kept_file(store, result), record)


def _behind(store: Store, record: Record, known: Mapping[Parent, Record]) -> Iterator[Record]:
    """The records of its inputs; where another result has taken the key, another step's that made the same."""
    for parent in (p for several in record.parents.values() for p in several):
        found = known.get(parent) or store.record(parent.key)
        if found and found.content == parent.content:
            yield found
        elif not kept_file(store, parent).exists():
            several = (store.record(e.key) for e in store.index.of_content(parent.content))
            yield from (r for r in several if r and r.content == parent.content)


def kept_file(store: Store, result: Parent) -> Path:
    """Where the record of a result is kept beside the ledgers, whatever becomes of its key."""
    return store.root / KEPT / f"{result.key}-{result.content}.json"
