"""What results stand on: the steps behind them, and which content a store must have for them to be used and trusted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from flows.store.records import Parent, Record
from flows.store.retained import makers
from flows.store.store import Store
from flows.wiring.views import MODELS

LARGE_KINDS = MODELS | {"Logps"}
"""Kinds whose content behind a result is not needed to use it. Tables are: a report is refused whose prompts occur in a
table that trained the policy."""


class Reach(NamedTuple):
    """All that several results were made from, themselves included."""

    records: dict[Parent, Record]
    """Each step before those that were made from it."""
    contents: frozenset[str]
    """Contents that are needed: those of the results, what these refer to, and the tables behind them."""


def reach_of(store: Store, roots: Iterable[Record]) -> Reach:
    """What these results were made from, as far as records say."""
    roots, records = list(roots), dict[Parent, Record]()

    def visit(record: Record) -> None:
        """Depth first, without recursion: chains of rounds are long."""
        todo: list[tuple[Record, bool]] = [(record, False)]
        while todo:
            one, done = todo.pop()
            if done:
                records.setdefault(one.result, one)
            elif one.result not in records:
                todo.append((one, True))
                behind = [maker for parent in one.inputs for maker in makers(store, parent)]
                behind += [maker for content in one.refers_to for maker in store.index.records(content)]
                todo += [(maker, False) for maker in behind if maker.result not in records]

    for root in roots:
        visit(root)
    needed = {root.content for root in roots} | {content for root in roots for content in root.refers_to}
    tables = {record.content for record in records.values() if record.kind not in LARGE_KINDS}
    return Reach(records, frozenset(needed | tables))
