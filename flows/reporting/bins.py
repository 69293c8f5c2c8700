"""The histograms of a Report, as figures draw them."""

from __future__ import annotations

from dataclasses import dataclass

from flows.store.records import Record
from flows.store.store import Store
from tasks.declarations import Binned


@dataclass(frozen=True)
class Bin:
    """One bin of a Report's histograms; the fields are those of `tasks.columns.BINS`."""

    name: str
    low: float
    high: float
    count: int
    mean: float | None
    value: float | None
    ci_low: float | None
    ci_high: float | None
    shown: Binned | None = None
    """How its task declares that a figure shows it; None for bins that have a figure of their own."""


def read_bins(store: Store, record: Record) -> tuple[Bin, ...]:
    """The bins of a Report's histograms; empty where it has none."""
    from tasks.kinds import Report

    bins = Report(store.root / record.path).bins
    declared = store.declared.of_task(record.task, "bins") or {}
    rows = bins.to_pylist() if bins else []
    return tuple(
        Bin(**row, shown=next((b for n, b in declared.items() if includes_name(row["name"], n)), None)) for row in rows
    )


def includes_name(name: str, declared: str) -> bool:
    """Whether a declared name is this one, or includes it: `x` for `x/y`."""
    return name == declared or name.startswith(f"{declared}/")
