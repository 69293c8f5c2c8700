"""The histograms of a Report, as figures draw them."""

from __future__ import annotations

from dataclasses import dataclass

from flows.store.records import Record
from flows.store.store import Store


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


def read_bins(store: Store, record: Record) -> tuple[Bin, ...]:
    """The bins of a Report's histograms; empty where it has none."""
    from tasks.kinds import Report

    bins = Report(store.root / record.path).bins
    return tuple(Bin(**row) for row in bins.to_pylist()) if bins else ()
