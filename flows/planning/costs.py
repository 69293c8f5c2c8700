"""What a step will cost, before it runs: the quantities that its task declares, and seconds from an earlier record of
its task. Upper bounds where sizes are only bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flows.python.declared import Declarations
from flows.store.records import Record
from flows.wiring.views import View
from tasks.contract import JSON
from tasks.declarations import AtMost


@dataclass(frozen=True)
class StepCost:
    """What a step takes. A quantity that is None is not known before it runs."""

    units: Mapping[str, float | None] = field(default_factory=dict)
    """`samples`, `queries`, `tokens`, `steps`, or other names that a task gives."""
    seconds: float | None = None
    more: frozenset[str] = frozenset()
    """Of a sum: the quantities that are not known for every step, so that more will come."""
    bounds: frozenset[str] = frozenset()
    """The quantities that are the most it can be, not what is expected."""

    def text(self) -> str:
        """`500 samples · 12 s`; empty for a step that costs nothing worth saying."""
        most = dict.fromkeys(self.bounds, "at most ")
        parts = [f"{most.get(name, '')}{_count(value)} {name}" for name, value in self.units.items() if value != 0]
        return " · ".join([*parts, *([_time(self.seconds)] if self.seconds is not None else [])])

    def as_json(self) -> JSON:
        more: list[JSON] = [*sorted(self.more)]
        return {**self.units, "seconds": self.seconds, **({"more": more} if more else {})}


def total(costs: Iterable[StepCost]) -> StepCost:
    """The sum of what is known, and of which quantities some is not."""
    several = list(costs)
    names = dict.fromkeys(n for c in several for n in c.units)
    values = {n: [c.units[n] for c in several if n in c.units] for n in names}
    values["seconds"] = [c.seconds for c in several]
    known = {n: [v for v in of if v is not None] for n, of in values.items()}
    sums = {n: sum(of) if of else None for n, of in known.items()}
    seconds = sums.pop("seconds")
    return StepCost(sums, seconds, frozenset(n for n, of in values.items() if None in of))


def step_cost(step: View, former: tuple[Record, View] | None, declared: Declarations) -> StepCost:
    """What a step's task declares; bounds and seconds as a former record of the task shows them, scaled by the work."""
    units = _units(step, declared)
    work = _work(former[1], declared) if former else math.nan
    factor = _work(step, declared) / work if work else math.nan
    totals = former[0].totals if former else {}
    values: dict[str, float | None] = {}
    bounds = set[str]()
    for name, value in units.items():
        if not isinstance(value, AtMost):
            values[name] = value if math.isfinite(value) else None
            continue
        expected = totals[name] * factor if value.typical and name in totals else math.nan
        least = min((v for v in (expected, value.bound) if v == v), default=math.nan)
        if least == least:
            values[name] = least
            bounds |= set() if least == expected else {name}
    seconds = None if former is None else former[0].seconds * (factor if factor == factor else 1.0)
    return StepCost(values, seconds, bounds=frozenset(bounds))


def _units(step: View, declared: Declarations) -> Mapping[str, float | AtMost]:
    units = declared.value(declared.of_task(step.task, "cost") or {}, Mapping, step) or {}
    wrong = [n for n, v in units.items() if not isinstance(v, int | float | AtMost)]
    if wrong:
        declared.notice(f"{step.task}_cost gave {wrong[0]} = {units[wrong[0]]!r}, which is not a number")
    return {n: v for n, v in units.items() if n not in wrong}


def _work(step: View, declared: Declarations) -> float:
    """What a step's time is proportional to; nan where it is not known."""
    work = declared.of_task(step.task, "work")
    if work is not None:
        return float(declared.value(work, float | int, step) or math.nan)
    plain = [v for v in _units(step, declared).values() if not isinstance(v, AtMost)]
    return plain[0] if plain else step.main.rows


def _count(value: float | None) -> str:
    return "?" if value is None else f"{math.ceil(value):,}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "<1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
