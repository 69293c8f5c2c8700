"""The history of a continuing deployment, folded from its events: its rounds, its head, and what is unfinished.

The head is every value that `prev.` and `last.` name and every list that `every.` names, as the last accepted round
left them. Numbers only go up: a rejected round and one that was given up have used theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import reduce
from typing import Any, Literal

from flows.rounds.gate import Evidence
from flows.wiring.graph import CarriedValue
from tasks.contract import DataError

Verdict = Literal["accepted", "rejected", "unfinished", "given up"]
REJECTIONS = 3
"""The loop is stalled after so many rejections with equal parameters since the head last moved."""


@dataclass(frozen=True)
class Measured:
    """An estimate out of a report; `low` and `high` are the ends of its 95% interval."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def now() -> str:
    """The time, as events hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class _Timed:
    when: str = field(default_factory=now)


@dataclass(frozen=True)
class Begun(_Timed):
    """A tick has taken its number. `overrides`: as given; `parameters`: all values that the tick's keys hold."""

    number: int
    run: str
    overrides: Mapping[str, Any]
    parameters: Mapping[str, Any]
    file: str
    commit: str
    event: Literal["begun"] = "begun"


@dataclass(frozen=True)
class Resumed(_Timed):
    """Another attempt at the number that was begun last."""

    number: int
    run: str
    event: Literal["resumed"] = "resumed"


@dataclass(frozen=True)
class Finished(_Timed):
    """A round has its verdict. If it is accepted, `values` is what the next one starts from, and `every` is appended to
    the lists."""

    number: int
    accepted: bool
    gate: Measured | None
    evidence: Evidence | None
    """The test by which the gate decided; None without a gate, like `gate`."""
    headline: Mapping[str, Measured]
    values: Mapping[str, CarriedValue | None]
    every: Mapping[str, CarriedValue | None]
    candidate: str = ""
    """Content digest of the model that the gate measured; empty without a gate."""
    event: Literal["finished"] = "finished"


@dataclass(frozen=True)
class RolledBack(_Timed):
    """The head is again what it was after round `to`; 0 is the start. An unfinished round is given up."""

    to: int
    event: Literal["rolled back"] = "rolled back"


@dataclass(frozen=True)
class Stalled(_Timed):
    """A tick did no work, because enough rounds with its parameters had been rejected."""

    event: Literal["stalled"] = "stalled"


@dataclass(frozen=True)
class AfterDone(_Timed):
    """The steps `after` the loop have run for the head of that round."""

    round: int
    run: str
    event: Literal["after"] = "after"


Event = Begun | Resumed | Finished | RolledBack | Stalled | AfterDone


@dataclass(frozen=True)
class Head:
    """What the next tick starts from. `round` is the accepted round that left it; 0 is the start."""

    round: int = 0
    values: Mapping[str, CarriedValue | None] = field(default_factory=dict)
    every: Mapping[str, tuple[CarriedValue, ...]] = field(default_factory=dict)
    """The list of a name ends with the first round that does not add to it: it would lack that round."""


@dataclass(frozen=True)
class Round:
    """One number with its runs and its verdict."""

    begun: Begun
    runs: tuple[str, ...]
    """Ids of its runs: more than one if it was killed or failed."""
    finished: Finished | None = None
    given_up: bool = False

    @property
    def verdict(self) -> Verdict:
        if self.finished is None:
            return "given up" if self.given_up else "unfinished"
        return "accepted" if self.finished.accepted else "rejected"


@dataclass(frozen=True)
class History:
    """The state after all events."""

    rounds: tuple[Round, ...] = ()
    head: Head = Head()
    heads: Mapping[int, Head] = field(default_factory=lambda: {0: Head()})
    """The head as every accepted round left it: what one can roll back to."""
    streak: tuple[Round, ...] = ()
    """Rejected rounds since the head last moved."""
    after: int = 0
    """The head's round for which `after` has run."""
    stall_recorded: bool = False
    """Whether the last event is `Stalled`."""

    @property
    def last(self) -> int:
        """The last number that was begun; 0 if none was."""
        return len(self.rounds)

    @property
    def open(self) -> Round | None:
        """The round that was begun and has no verdict yet."""
        return self.rounds[-1] if self.rounds and self.rounds[-1].verdict == "unfinished" else None

    @property
    def stalled(self) -> bool:
        """Whether the loop is stalled with the parameters of its last round."""
        return bool(self.streak) and self.is_stalled(self.rounds[-1].begun.parameters)

    @property
    def champion(self) -> str:
        """Content digest of the model that the gate accepted with the head's round; empty at the start, and where no
        gate tested that round."""
        finished = self.rounds[self.head.round - 1].finished if self.head.round else None
        return finished.candidate if finished else ""

    def is_stalled(self, parameters: Mapping[str, Any]) -> bool:
        """Whether enough rounds with these parameters were rejected."""
        return self.rejections(parameters) >= REJECTIONS

    def stall(self, parameters: Mapping[str, Any]) -> str:
        """How often these parameters were rejected, and the smallest gain that the last gate would have detected."""
        tests = [r.finished.evidence for r in self.streak if r.finished and r.finished.evidence]
        reach = f"; {tests[-1].reach}" if tests else ""
        count = self.rejections(parameters)
        return f"stalled: {count} consecutive rejections with these parameters since the head moved{reach}"

    def rejections(self, parameters: Mapping[str, Any]) -> int:
        """How many rounds with these parameters were rejected since the head last moved."""
        return sum(r.begun.parameters == parameters for r in self.streak)


@dataclass(frozen=True)
class AlphaUse:
    """The part of alpha that the gate's tests have used."""

    used: float
    """Sum of the levels of all tests."""
    bound: float
    """P(a policy no better than its head is ever accepted), with all future ticks, if alpha stays as it is."""
    alpha: float
    """That of the last test."""
    tests: int


def alpha_use(history: History) -> AlphaUse | None:
    """None where nothing was tested."""
    tests = [(f.number, f.evidence) for r in history.rounds if (f := r.finished) and f.evidence]
    if not tests:
        return None
    used, (last, newest) = sum(test.level for _, test in tests), tests[-1]
    return AlphaUse(used, used + newest.alpha / (last + 1), newest.alpha, len(tests))


def history_of(events: Iterable[Event]) -> History:
    """Fold the events. Raises DataError for a sequence that no ticks can have written."""
    return reduce(_after, events, History())


def _after(h: History, event: Event) -> History:
    h = replace(h, stall_recorded=isinstance(event, Stalled))
    match event:
        case Begun():
            _expect(h.open is None and event.number == h.last + 1, event, f"after round {h.last}")
            return replace(h, rounds=(*h.rounds, Round(event, (event.run,))))
        case Resumed():
            _expect(h.open is not None and event.number == h.last, event, f"after round {h.last}")
            return _last(h, runs=(*h.rounds[-1].runs, event.run))
        case Finished():
            _expect(h.open is not None and event.number == h.last, event, f"after round {h.last}")
            return _finished(_last(h, finished=event), event)
        case RolledBack():
            _expect(event.to in h.heads, event, f"with accepted rounds {sorted(h.heads)}")
            h = _last(h, given_up=True) if h.open else h
            return replace(h, head=h.heads[event.to], streak=())
        case AfterDone():
            return replace(h, after=event.round)
        case Stalled():
            return h


def _expect(holds: bool, event: Event, where: str) -> None:
    if not holds:
        raise DataError(f"the event '{event.event}' of {event.when} cannot stand {where}")


def _last(h: History, **changed: Any) -> History:
    return replace(h, rounds=(*h.rounds[:-1], replace(h.rounds[-1], **changed)))


def _finished(h: History, event: Finished) -> History:
    if not event.accepted:
        return replace(h, streak=(*h.streak, h.rounds[-1]))
    lists = h.head.every
    added = {name: (*lists.get(name, ()), *([c] if c else [])) for name, c in event.every.items()}
    head = Head(event.number, event.values, added)
    return replace(h, head=head, heads={**h.heads, event.number: head}, streak=())


def changed_parameters(before: Round | None, this: Round) -> Sequence[str]:
    """Names of the parameters whose values differ from those of the round before."""
    if before is None:
        return sorted(this.begun.overrides)
    old, new = before.begun.parameters, this.begun.parameters
    return sorted(n for n in {*old, *new} if old.get(n) != new.get(n))
