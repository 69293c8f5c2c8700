"""Values that an earlier tick left: nodes of the task `carried`, which name a content and which nothing executes."""

from __future__ import annotations

from flows.store.records import Record
from flows.store.store import Store
from flows.wiring.model import Node
from tasks.contract import DataError

CARRIED = "carried"


def carried_record(store: Store, node: Node) -> Record:
    """The record of the value that a carried node names, intact. Raises DataError if it is gone.

    It is the record of the step that made the value, so that its lineage goes on behind it.
    """
    content = str(node.params["digest"])
    for entry in store.index.of_content(content):
        if entry.kind == node.kind and (record := store.lookup(entry.key)):
            return record
    raise DataError(f"{node.id} was {node.kind} {content}, which is gone")
