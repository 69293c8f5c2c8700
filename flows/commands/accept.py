"""`alignflow accept`: old results of a step serve under its new key after a harmless edit of code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from flows.planning.explain import FormerRecords
from flows.planning.key_diff import differences
from flows.run.run import steps_named
from flows.store.keys import Choices, Key
from flows.store.records import Record, write_record
from flows.store.retained import CARRIED, carried_record
from flows.store.store import Store
from flows.system.locks import locked
from flows.wiring.model import Graph
from tasks.contract import JSON, SpecError


def accept_step(graph: Graph, store: Store, step: str) -> Iterator[str]:
    """Accept the former results of STEP, in all rounds, and yield a line for each.

    Raises SpecError where a step has no former result, where an input must run first, or where more than code differs.
    """
    wanted = set(steps_named(graph, step))
    choices = Choices(store.code(graph.packages), store.contents, Path(graph.file).parent)
    former = FormerRecords(store, graph)
    known: dict[str, Record] = {}
    accepted = 0
    for node in graph.nodes.values():
        if node.task == CARRIED:
            known[node.id] = carried_record(store, node)
            continue
        missing = [i for ids in node.inputs.values() for i in ids if i not in known]
        if missing:
            if node.id in wanted:
                raise SpecError(f"'{node.id}' needs `{missing[0]}`, which has no result: accept or run that one first")
            continue
        key = choices.prepare(node).key({port: [known[i].content for i in ids] for port, ids in node.inputs.items()})
        record = store.record_of(key.digest)
        if record is None and node.id in wanted:
            old = former.of_step(node)
            if old is None:
                raise SpecError(f"'{node.id}' has no former result in the last runs of {graph.pipeline}")
            try:
                record = accept_result(store, key, old)
            except SpecError as e:
                raise SpecError(f"'{node.id}': {e}") from None
            accepted += 1
            yield f"{node.title}: {record.content[:12]} of {old.made[:16].replace('T', ' ')} is accepted"
        if record:
            known[node.id] = record
    if not accepted:
        yield f"nothing to accept: '{step}' is cached"


def accept_result(store: Store, key: Key, old: Record) -> Record:
    """Write an old result's record under a new key, marked as accepted.

    Raises SpecError where more than code or package versions differ, or where the old content is not intact.
    """
    changes = differences(old, key)
    if other := [change.text for change in changes if change.part not in {"code", "packages"}]:
        raise SpecError(f"only an edit of code can be accepted, but {'; '.join(other)}")
    if damage := store.usability_error(old):
        raise SpecError(f"the old result cannot be accepted: {damage}")
    when = datetime.now(UTC).isoformat(timespec="seconds")
    accepted: dict[str, JSON] = {"from": old.key, "because": [change.text for change in changes], "when": when}
    record = replace(old, key=key.digest, parts=key.parts, code=key.code, accepted=accepted)
    with store.lock(key.digest), locked(store.root / "locks" / "gc", shared=True):
        if store.record_of(key.digest):
            raise SpecError("this step has a result of its own already; there is nothing to accept")
        write_record(store.root / "keys" / f"{key.digest}.json", record)
    return record
