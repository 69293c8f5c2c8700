"""The totals of steps that people read, as their tasks declare them: what was queried, at what cost, …"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flows.reporting.results import NOTHING
from flows.store.finished import FinishedStep
from flows.store.records import Record
from flows.store.store import Store
from tasks.declarations import Total


def declared_totals(store: Store, record: Record) -> dict[str, Total]:
    """How people see the totals of a record, by their names; those that its task does not declare are left out."""
    declared: Mapping[str, Total] = store.declared.of_task(record.task, "totals") or {}
    return {name: total for name, total in declared.items() if name in record.totals}


def totals_rows(store: Store, steps: Sequence[FinishedStep]) -> list[dict[str, str]]:
    """A row for each step whose task declares totals: column → text, the same columns in all rows.

    A column that is 0 or missing in all rows is left out.
    """
    several = [(step, shown) for step in steps if (shown := declared_totals(store, step.record))]
    declared = {n: t for step, _ in several for n, t in store.declared.of_task(step.record.task, "totals").items()}
    columns = {n: t for n, t in declared.items() if any(step.record.totals.get(n) for step, _ in several)}
    return [
        {"step": step.title} | {total.title: _cell(step.record, name, total) for name, total in columns.items()}
        for step, _ in several
    ]


def total_texts(store: Store, record: Record) -> list[str]:
    """`questions 1,200`, `ties 0.012`, …: the declared totals of a record."""
    shown = declared_totals(store, record)
    return [f"{total.title} {_cell(record, name, total)}" for name, total in shown.items()]


def _cell(record: Record, name: str, total: Total) -> str:
    return f"{record.totals[name]:{total.format}}" if name in record.totals else NOTHING
