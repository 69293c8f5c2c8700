"""The results of a run as rows: the headline of every round, base against base beside it, and what was warned."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flows.store.finished import FinishedStep
from flows.store.lineage import oracle_also_trained, origin, refuse_seen
from flows.store.views import RecordViews
from tasks.contract import JSON
from tasks.declarations import Metric

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from flows.store.records import Record
    from flows.store.store import Store

LABELS_SHOWN = 4
"""Rows or steps that are named before a notice that they share."""
NOTHING = "–"
"""Cell of a number that is not there."""
FEW = 30
"""Below so many prompts it is said beside a table that they are few."""
COSTS = {"samples": "cost/samples", "queries": "cost/oracle_queries", "tokens": "cost/tokens"}
"""Totals of a record that are a run's costs, and their metric names."""


@dataclass(frozen=True)
class Estimate:
    """One row of a Report. `low` and `high` are the ends of the 95% interval over prompts; NaN is no value."""

    value: float
    low: float | None
    high: float | None
    n: int
    unit: str
    metric: Metric = field(default_factory=Metric)
    """How people see it."""

    @property
    def goodness(self) -> float:
        """By which it is ranked: higher is better."""
        return self.value if self.metric.higher_is_better else -self.value


@dataclass(frozen=True)
class ResultRow:
    """One evaluation. `round` is None for a pipeline without rounds and 0 for base against base."""

    label: str
    round: int | None
    metrics: Mapping[str, Estimate]
    notices: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Prompts behind the metric that it is ranked by, or behind the one with most of them."""
        main = main_metric(self.metrics)
        return self.metrics[main].n if main else max((e.n for e in self.metrics.values()), default=0)


@dataclass(frozen=True)
class RunResults:
    """What a run measured: `rows` are the headline, by round; `others` further evaluations under their own names."""

    floor: ResultRow | None
    rows: tuple[ResultRow, ...]
    others: tuple[ResultRow, ...]
    notices: tuple[tuple[str, str], ...] = ()
    """What the steps that measure nothing said, each with its title: formats that were read, rows that were skipped."""


def read_report(store: Store, record: Record) -> dict[str, Estimate]:
    """Metric name → estimate, from the table of a Report."""
    from tasks.kinds import Report

    found = {}
    for r in Report(store.root / record.path).table.to_pylist():
        value = math.nan if r["value"] is None else r["value"]
        found[r["name"]] = Estimate(value, r["ci_low"], r["ci_high"], r["n"], r["unit"])
    return with_metrics(found, store.declared.of_task(record.task, "metrics") or {})


def with_metrics(found: Mapping[str, Estimate], declared: Mapping[str, Metric]) -> dict[str, Estimate]:
    """Estimates with what a task declares of them, in the order in which it does."""
    several = {name: re.sub(r"(/\d+)+$", "", name) for name in found}
    names = [*(n for n in declared if n in found), *(n for n in found if n not in declared)]
    return {n: replace(found[n], metric=declared[several[n]]) if several[n] in declared else found[n] for n in names}


def metric_of(metrics: Mapping[str, Estimate], role: str) -> str:
    """The metric that has a role; empty where none has."""
    return next((name for name, e in metrics.items() if e.metric.role == role), "")


def metric_in(rows: Iterable[ResultRow], role: str) -> str:
    """The metric that has a role in the first of these rows where one has; empty where none has."""
    return next((name for row in rows if (name := metric_of(row.metrics, role))), "")


def columns(rows: Iterable[ResultRow]) -> dict[str, Metric]:
    """The metrics that tables show of these rows, in the order in which tasks declare them."""
    return {name: e.metric for row in rows for name, e in row.metrics.items() if e.metric.column}


def headlines(steps: Sequence[FinishedStep]) -> list[FinishedStep]:
    """The evaluations that stand for a run, by round."""
    return sorted((s for s in steps if s.record.kind == "Report" and s.headline), key=lambda s: s.round or 0)


def floors(store: Store, steps: Sequence[FinishedStep]) -> list[FinishedStep]:
    """Evaluations of a policy against itself: base against base, which must include one half."""
    views = RecordViews(store)
    reports = [s for s in steps if s.record.kind == "Report" and not s.headline]
    evaluations = [(s, e) for s in reports if (e := views.of(s.record).evaluation)]
    return [
        s for s, e in evaluations if e.model and e.baseline and origin(e.model).content == origin(e.baseline).content
    ]


def main_metric(metrics: Mapping[str, Estimate]) -> str:
    """The metric that a headline is ranked by; empty if it has none."""
    return next((m for m, e in metrics.items() if e.metric.ranks and not math.isnan(e.value)), "")


def run_results(store: Store, steps: Sequence[FinishedStep]) -> RunResults:
    """The headline by round, base against base (the evaluation whose two sides are one policy), and all others."""
    floor = floors(store, steps)[:1]
    rest = [s for s in steps if s.record.kind == "Report" and not s.headline and s not in floor]
    return RunResults(
        floor=_row(store, floor[0], "base", 0) if floor else None,
        rows=tuple(_row(store, s, _label(store, s), s.round) for s in headlines(steps)),
        others=tuple(_row(store, s, s.title, s.round) for s in rest),
        notices=tuple((s.title, text) for s in steps if s.record.kind != "Report" for text in s.record.notices),
    )


def costs(steps: Iterable[FinishedStep]) -> dict[str, float]:
    """Samples, oracle queries, tokens and seconds that the steps took when they were made, cached ones included."""
    found: dict[str, float] = {}
    for step in steps:
        found["cost/seconds"] = found.get("cost/seconds", 0.0) + step.record.seconds
        for total, value in step.record.totals.items():
            if total in COSTS:
                found[COSTS[total]] = found.get(COSTS[total], 0.0) + value
    return found


def table(found: RunResults) -> RichTable:
    """All rows in one table: base against base first, then round by round, then other evaluations."""
    return _drawn([*_main_rows(found), *found.others], found)


def tables(found: RunResults) -> list[RichTable]:
    """The rows as people read them: the headline in one table, other evaluations below in one with columns of their
    own. One in which no metric is shown to people is left out."""
    several = [_drawn(rows, found) for rows in (_main_rows(found), found.others)]
    return [one for one in several if one.row_count and len(one.columns) > 2]


def _main_rows(found: RunResults) -> list[ResultRow]:
    return [*([found.floor] if found.floor else []), *found.rows]


def _drawn(rows: Sequence[ResultRow], found: RunResults) -> RichTable:
    from rich import box
    from rich.table import Table

    shown = columns(rows)
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column("")
    drawn.add_column("prompts", justify="right")
    for metric in shown.values():
        drawn.add_column(metric.column, justify="right", no_wrap=True)
    for row in rows:
        label = "base vs. base" if row is found.floor else row.label
        style = "bold" if found.rows and row is found.rows[-1] else "dim" if row in found.others else ""
        drawn.add_row(label, str(row.n), *(table_cell(row.metrics.get(m)) for m in shown), style=style)
    return drawn


def metrics_table(metrics: Mapping[str, Estimate]) -> RichTable:
    """Every number of one report, with its interval, how many prompts or pairs are behind it, and its unit."""
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column("metric")
    for head in ("value", "95% CI", "n"):
        drawn.add_column(head, justify="right", no_wrap=True)
    drawn.add_column("unit")
    for name, e in metrics.items():
        ends = NOTHING if e.low is None or e.high is None else f"{_number(e.low)} – {_number(e.high)}"
        drawn.add_row(name, _number(e.value), ends, str(e.n), e.unit, style="bold" if e.metric.ranks else "")
    return drawn


def _number(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.4f}"


def warnings(found: RunResults) -> list[str]:
    """What must be read beside the numbers, each said once, with the rows it belongs to."""
    rows = [*_main_rows(found), *found.others]
    return _once((row.label, notice) for row in rows for notice in (*row.notices, *_few(row)))


def _few(row: ResultRow) -> Iterator[str]:
    if row.n < FEW and columns([row]):
        yield f"only {row.n} prompts (fewer than {FEW}): other prompts may give quite other numbers"


def notices(found: RunResults) -> list[str]:
    """What the steps before said of their data, each said once, with the steps it belongs to."""
    return _once(found.notices)


def _once(labelled: Iterable[tuple[str, str]]) -> list[str]:
    where: dict[str, list[str]] = {}
    for label, text in labelled:
        where.setdefault(text, []).append(label)
    return [f"{_several(labels)}: {text}" for text, labels in where.items()]


def _several(labels: Sequence[str]) -> str:
    """The labels, or the first ones and how many more there are."""
    more = len(labels) - LABELS_SHOWN
    return f"{', '.join(labels[:LABELS_SHOWN])} and {more} more" if more > 0 else ", ".join(labels)


def as_json(found: RunResults) -> list[JSON]:
    """The rows for scripts."""
    rows = [*_main_rows(found), *found.others]
    return [
        {
            "row": r.label,
            "round": r.round,
            "metrics": {m: plain_number(e) for m, e in r.metrics.items()},
            "notices": [*r.notices],
        }
        for r in rows
    ]


def _label(store: Store, step: FinishedStep) -> str:
    if step.round:
        return f"round {step.round}"
    evaluation = RecordViews(store).of(step.record).evaluation
    return "policy" if evaluation and evaluation.model and evaluation.model.kind == "Policy" else step.title


def _row(store: Store, step: FinishedStep, label: str, round: int | None) -> ResultRow:
    return ResultRow(label, round, read_report(store, step.record), tuple(_beside(store, step.record)))


def _beside(store: Store, report: Record) -> Iterator[str]:
    """What must be said beside a report's numbers."""
    yield from report.notices
    evaluation = RecordViews(store).of(report).evaluation
    if evaluation is None:
        return
    if oracle_also_trained(store, evaluation):
        yield "the oracle that judged here also trained the policy"
    if evaluation.allow_seen and (told := refuse_seen(store, evaluation)):
        yield told


def plain_number(e: Estimate) -> JSON:
    """An estimate for scripts; NaN becomes null."""
    return {"value": None if math.isnan(e.value) else e.value, "low": e.low, "high": e.high, "n": e.n, "unit": e.unit}


def table_cell(e: Estimate | None) -> str:
    """An estimate as people read it, in the format of its column: `0.612 (0.581–0.643)` or `+0.02 (−0.01 to +0.05)`."""
    if e is None or math.isnan(e.value):
        return NOTHING
    ends = (e.low, e.high) if e.metric.interval else (None, None)
    return estimate_text(e.value, *ends, e.metric.format)


def estimate_text(value: float | None, low: float | None, high: float | None, format: str = ".3f") -> str:
    """`0.612 (0.581–0.643)`; without both ends only the value, and – where there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    between = " to " if format.startswith("+") else "–"
    ends = "" if low is None or high is None else f" ({_formatted(low, format)}{between}{_formatted(high, format)})"
    return f"{_formatted(value, format)}{ends}"


def signed_text(value: float) -> str:
    """A difference with its sign, of either kind."""
    return _formatted(value, "+.3f")


def _formatted(value: float, format: str) -> str:
    """A number whose zero has no minus; where a sign belongs to it, with the typographer's."""
    text = f"{value:{format}}"
    if not format.startswith("+"):
        return text.removeprefix("-") if not text.strip("-0.%") else text
    return text.replace("-", "−")
