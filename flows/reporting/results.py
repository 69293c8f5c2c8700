"""The results of a run as rows: the headline of every round, base against base beside it, and warnings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flows.reporting.bins import Bin, read_bins
from flows.store.finished import FinishedStep
from flows.store.lineage import oracle_also_trained, origin, refuse_seen
from flows.store.records import Record
from flows.store.store import Store
from flows.store.views import RecordViews
from tasks.contract import JSON
from tasks.declarations import Metric

if TYPE_CHECKING:
    from rich.table import Table as RichTable

LABELS_SHOWN = 4
"""Rows or steps that are named before a notice that they share."""
NOTHING = "–"
"""Cell of a number that is missing."""
FEW = 30
"""Below so many prompts, a warning beside the table says that they are few."""
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
    """How tables and figures show it."""

    @property
    def goodness(self) -> float:
        """The value by which it is ranked: higher is better."""
        return self.value if self.metric.higher_is_better else -self.value

    def as_json(self) -> JSON:
        """NaN becomes null."""
        value = None if math.isnan(self.value) else self.value
        return {"value": value, "low": self.low, "high": self.high, "n": self.n, "unit": self.unit}


@dataclass(frozen=True)
class ResultRow:
    """One evaluation. `round` is None for a pipeline without rounds and 0 for base against base."""

    label: str
    round: int | None
    metrics: Mapping[str, Estimate]
    notices: tuple[str, ...] = ()
    bins: tuple[Bin, ...] = ()
    about: str = ""
    """What kind of evaluation it is."""

    @property
    def n(self) -> int:
        """Prompts behind the metric that it is ranked by, or behind the one with most of them."""
        main = main_metric(self.metrics)
        return self.metrics[main].n if main else max((e.n for e in self.metrics.values()), default=0)


@dataclass(frozen=True)
class RunResults:
    """What a run measured: `rows` are the headline, by round; `others` further evaluations under their own names."""

    base_check: ResultRow | None
    """Base against base."""
    rows: tuple[ResultRow, ...]
    others: tuple[ResultRow, ...]
    step_notices: tuple[tuple[str, str], ...] = ()
    """Title and text of each notice of a step that measures nothing: formats it read, rows it skipped."""

    @property
    def main_rows(self) -> list[ResultRow]:
        """Base against base, then the headline."""
        return [*([self.base_check] if self.base_check else []), *self.rows]

    @property
    def all_rows(self) -> list[ResultRow]:
        return [*self.main_rows, *self.others]

    def warnings(self) -> list[str]:
        """What must be read beside the numbers: each warning once, with the rows that it belongs to."""
        return _once((row.label, notice) for row in self.all_rows for notice in (*row.notices, *_few(row)))

    def notices(self) -> list[str]:
        """The notices of the steps before: each once, with the steps that it belongs to."""
        return _once(self.step_notices)

    def as_json(self) -> list[JSON]:
        return [
            {
                "row": row.label, "round": row.round, "metrics": {m: e.as_json() for m, e in row.metrics.items()},
                "notices": [*row.notices],
            }
            for row in self.all_rows
        ]  # fmt: skip


def _few(row: ResultRow) -> Iterator[str]:
    if row.n < FEW and columns([row]):
        yield f"only {row.n} prompts (fewer than {FEW}): other prompts may give quite other numbers"


def _once(labelled: Iterable[tuple[str, str]]) -> list[str]:
    labels: dict[str, list[str]] = {}
    for label, text in labelled:
        labels.setdefault(text, []).append(label)
    return [f"{_first_labels(several)}: {text}" for text, several in labels.items()]


def _first_labels(labels: Sequence[str]) -> str:
    more = len(labels) - LABELS_SHOWN
    return f"{', '.join(labels[:LABELS_SHOWN])} and {more} more" if more > 0 else ", ".join(labels)


def read_report(store: Store, record: Record) -> dict[str, Estimate]:
    """Metric name → estimate, from the table of a Report."""
    from tasks.kinds import Report

    estimates = {}
    for r in Report(store.root / record.path).table.to_pylist():
        value = math.nan if r["value"] is None else r["value"]
        estimates[r["name"]] = Estimate(value, r["ci_low"], r["ci_high"], r["n"], r["unit"])
    return with_metrics(estimates, store.declared.of_task(record.task, "metrics") or {})


def with_metrics(estimates: Mapping[str, Estimate], declared: Mapping[str, Metric]) -> dict[str, Estimate]:
    """Estimates with the metrics that a task declares, in the order in which it declares them."""
    longer = {n: next((d for d in declared if n.startswith(f"{d}/")), n) for n in estimates if n not in declared}
    names = [*(n for n in declared if n in estimates), *(n for n in estimates if n not in declared)]
    shown = {n: declared.get(longer.get(n, n), estimates[n].metric) for n in names}
    heads = {n: m.column.replace("{}", n.removeprefix(f"{longer.get(n, n)}/")) for n, m in shown.items()}
    return {n: replace(estimates[n], metric=replace(shown[n], column=heads[n])) for n in names}


def metric_of(metrics: Mapping[str, Estimate], role: str) -> str:
    """The metric that has a role; empty where none has."""
    return next((name for name, e in metrics.items() if e.metric.role == role), "")


def metric_in(rows: Iterable[ResultRow], role: str) -> str:
    """The metric that has a role in the first of these rows where one has; empty where none has."""
    return next((name for row in rows if (name := metric_of(row.metrics, role))), "")


def main_metric(metrics: Mapping[str, Estimate]) -> str:
    """The metric that a headline is ranked by; empty if it has none."""
    return next((m for m, e in metrics.items() if e.metric.ranks and not math.isnan(e.value)), "")


def columns(rows: Iterable[ResultRow]) -> dict[str, Metric]:
    """The metrics that tables show of these rows, in the order in which tasks declare them."""
    return {name: e.metric for row in rows for name, e in row.metrics.items() if e.metric.column}


def headlines(steps: Sequence[FinishedStep]) -> list[FinishedStep]:
    """The evaluations that stand for a run, by round."""
    return sorted((s for s in steps if s.record.kind == "Report" and s.headline), key=lambda s: s.round or 0)


def base_check_of(store: Store, steps: Sequence[FinishedStep]) -> FinishedStep | None:
    """The evaluation of a policy against itself: base against base, whose interval must include one half."""
    views = RecordViews(store)
    for step in steps:
        evaluation = views.of(step.record).evaluation if step.record.kind == "Report" and not step.headline else None
        sides = [evaluation.model, evaluation.baseline] if evaluation else []
        if all(sides) and len({origin(side).content for side in sides if side}) == 1:
            return step
    return None


def run_results(store: Store, steps: Sequence[FinishedStep]) -> RunResults:
    """The headline by round, base against base (the evaluation whose two sides are one policy), and all others."""
    base = base_check_of(store, steps)
    shown = _included(store, steps)
    others = [
        s for s in steps
        if s.record.kind == "Report" and not s.headline and s is not base and s.record.content not in shown
    ]  # fmt: skip
    return RunResults(
        base_check=_row(store, base, "base", 0) if base else None,
        rows=tuple(_row(store, s, _label(store, s), s.round) for s in headlines(steps)),
        others=tuple(_row(store, s, s.title, s.round) for s in others),
        step_notices=tuple((s.title, text) for s in steps if s.record.kind != "Report" for text in s.record.notices),
    )


def _included(store: Store, steps: Sequence[FinishedStep]) -> set[str]:
    """Contents of the Reports whose rows another Report of the steps shows as well."""
    views = RecordViews(store)
    evaluations = (views.of(step.record).evaluation for step in steps if step.record.kind == "Report")
    return {report.origin.content for found in evaluations if found for report in found.includes}


def _label(store: Store, step: FinishedStep) -> str:
    if step.round:
        return f"round {step.round}"
    evaluation = RecordViews(store).of(step.record).evaluation
    return "policy" if evaluation and evaluation.model and evaluation.model.kind == "Policy" else step.title


def _row(store: Store, step: FinishedStep, label: str, round: int | None) -> ResultRow:
    notices = tuple(_report_notices(store, step.record))
    evaluation = RecordViews(store).of(step.record).evaluation
    about = evaluation.title if evaluation else ""
    return ResultRow(label, round, read_report(store, step.record), notices, read_bins(store, step.record), about)


def _report_notices(store: Store, report: Record) -> Iterator[str]:
    yield from report.notices
    evaluation = RecordViews(store).of(report).evaluation
    if evaluation is None:
        return
    yield from dict.fromkeys(notice for included in evaluation.includes for notice in included.origin.notices)
    if oracle_also_trained(store, evaluation):
        yield "the oracle that judged here also trained the policy"
    if evaluation.allow_seen and (warning := refuse_seen(store, evaluation)):
        yield warning


def costs(steps: Iterable[FinishedStep]) -> dict[str, float]:
    """Samples, oracle queries, tokens and seconds that the steps took when they were made, cached ones included."""
    sums: dict[str, float] = {}
    for step in steps:
        sums["cost/seconds"] = sums.get("cost/seconds", 0.0) + step.record.seconds
        for total, value in step.record.totals.items():
            if total in COSTS:
                sums[COSTS[total]] = sums.get(COSTS[total], 0.0) + value
    return sums


def new_table(**options: Any) -> RichTable:
    """A table without frames."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left", title_style="bold", **options)


def table(results: RunResults) -> RichTable:
    """All rows in one table: base against base first, then round by round, then other evaluations."""
    return _table_of(results.all_rows, results)


def tables(results: RunResults) -> list[RichTable]:
    """The headline in one table, other evaluations in a second with columns of their own.

    A table without a metric that is shown to people is left out.
    """
    both = [_table_of(rows, results) for rows in (results.main_rows, results.others)]
    return [one for one in both if one.row_count and len(one.columns) > 2]


def _table_of(rows: Sequence[ResultRow], results: RunResults) -> RichTable:
    shown, made = columns(rows), new_table()
    made.add_column("")
    made.add_column("prompts", justify="right")
    for metric in shown.values():
        made.add_column(metric.column, justify="right", no_wrap=True)
    for row in rows:
        label = "base vs. base" if row is results.base_check else row.label
        style = "bold" if results.rows and row is results.rows[-1] else "dim" if row in results.others else ""
        made.add_row(label, str(row.n), *(table_cell(row.metrics.get(m)) for m in shown), style=style)
    return made


def metrics_table(metrics: Mapping[str, Estimate]) -> RichTable:
    """Every number of one report, with its interval, how many prompts or pairs are behind it, and its unit."""
    made = new_table()
    made.add_column("metric")
    for head in ("value", "95% CI", "n"):
        made.add_column(head, justify="right", no_wrap=True)
    made.add_column("unit")
    for name, e in metrics.items():
        value = NOTHING if math.isnan(e.value) else f"{e.value:.4f}"
        interval = NOTHING if e.low is None or e.high is None else f"{e.low:.4f} – {e.high:.4f}"
        made.add_row(name, value, interval, str(e.n), e.unit, style="bold" if e.metric.ranks else "")
    return made


def table_cell(e: Estimate | None) -> str:
    """An estimate in the format of its column: `0.612 (0.581–0.643)` or `+0.02 (−0.01 to +0.05)`."""
    if e is None:
        return NOTHING
    return estimate_text(e.value, *((e.low, e.high) if e.metric.interval else (None, None)), e.metric.format)


def estimate_text(
    value: float | None, low: float | None, high: float | None, format: str = ".3f", about: str = ""
) -> str:
    """`0.612 (0.581–0.643)`; without both ends only the value, and – where there is none. `about`: `0.612 (0.581–0.643;
    64 prompts)`."""
    if value is None or math.isnan(value):
        return NOTHING
    if low is None or high is None:
        return _formatted(value, format)
    between, more = " to " if format.startswith("+") else "–", f"; {about}" if about else ""
    return f"{_formatted(value, format)} ({_formatted(low, format)}{between}{_formatted(high, format)}{more})"


def _formatted(value: float, format: str) -> str:
    """A number whose zero has no minus; where a sign belongs to it, with the typographer's."""
    text = f"{value:{format}}"
    if not format.startswith("+"):
        return text.removeprefix("-") if not text.strip("-0.%") else text
    return text.replace("-", "−")
