"""The finished steps of a run: its file and the records of its steps, brought together."""

from __future__ import annotations

from dataclasses import dataclass

from flows.store.records import Record
from flows.store.runs import Run
from flows.store.store import Store
from flows.wiring.views import MODELS

HEADLINE = "report"
"""Name of the step whose evaluation stands for the run."""


@dataclass(frozen=True)
class FinishedStep:
    """A finished step of a run."""

    addresses: tuple[str, ...]
    round: int | None
    record: Record
    hit: bool

    @property
    def name(self) -> str:
        return self.addresses[0].split("@")[0]

    @property
    def title(self) -> str:
        """`round 2 · report/sample`, as people read it."""
        return f"round {self.round} · {self.name}" if self.round else self.name

    @property
    def trained(self) -> bool:
        """Whether it made a model and kept curves of how."""
        return bool(self.record.curves) and self.record.kind in MODELS

    @property
    def headline(self) -> bool:
        """Whether it is the step `report`, of whatever round."""
        return any(a.split("@")[0] == HEADLINE for a in self.addresses)


def finished_steps(store: Store, run: Run) -> list[FinishedStep]:
    """The steps of a run that have a result, in the graph's order, without those whose record is gone, and without
    values that an earlier tick left: they count in the run that made them."""
    records = ((s, store.record(s.key)) for s in run.steps.values() if s.key and not s.carried)
    return [FinishedStep(s.addresses, s.round, record, s.hit) for s, record in records if record]
