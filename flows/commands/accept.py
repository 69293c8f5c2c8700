"""`alignflow accept`: old results of a step stand for its new key after a harmless edit of code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flows.planning.explain import FormerRecords
from flows.run.run import PROJECT, steps_named
from flows.store.keys import Choices, Key, step_key
from flows.store.maintenance import accept_result
from flows.store.records import Record
from flows.store.retained import CARRIED, carried_record
from flows.store.store import Store
from flows.wiring.model import Graph
from tasks.contract import SpecError


def accept_step(graph: Graph, store: Store, step: str) -> Iterator[str]:
    """Accept the former results of what STEP names, in all rounds, and yield a line for each.

    Raises SpecError where a step has no former result, where an input must run first, or where more than code differs.
    """
    wanted = set(steps_named(graph, step))
    choices = Choices(store.code(PROJECT), store.contents, Path(graph.file).parent)
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
        key = step_key(node, {port: [known[i].content for i in ids] for port, ids in node.inputs.items()}, choices)
        record = store.record_of(key.digest)
        if record is None and node.id in wanted:
            old = former.of_step(node)
            if old is None:
                raise SpecError(f"'{node.id}' has no former result in the last runs of {graph.pipeline}")
            record = _accepted(store, key, old, node.id)
            accepted += 1
            yield f"{node.title}: {record.content[:12]} of {old.made[:16].replace('T', ' ')} stands"
        if record:
            known[node.id] = record
    if not accepted:
        yield f"nothing to accept: '{step}' is cached"


def _accepted(store: Store, key: Key, old: Record, step: str) -> Record:
    try:
        return accept_result(store, key, old)
    except SpecError as e:
        raise SpecError(f"'{step}': {e}") from None
