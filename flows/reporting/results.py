"""The results of a run as rows: the headline of every round, base against base beside it, and what was warned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.store.finished import FinishedStep
from flows.store.lineage import oracle_also_trained, refuse_seen
from tasks.contract import JSON

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table as RichTable

    from flows.store.records import Record
    from flows.store.store import Store

LABELS_SHOWN = 4
"""Rows or steps that are named before a notice that they share."""
NOTHING = "–"
"""Cell of a number that is not there."""
COLUMNS = {
    "eval/win_rate": "win rate vs. base\n(95% CI)", "eval/win_rate_lc": "length-\ncontrolled",
    "eval/accuracy": "accuracy\n(95% CI)", "eval/accuracy_change": "change\n(95% CI)",
    "eval/gold": "gold", "eval/proxy": "proxy",
    "eval/kl": "KL\n(nats)", "eval/length": "length\n(tokens)", "eval/finished": "finished",
    "eval/exploitability_last": "exploitable:\nlast policy", "eval/exploitability_mixture": "mixture",
}  # fmt: skip
"""Metrics that are shown, in this order, and how their columns are headed; in two lines, so that 100 letters do."""
FEW = 30
"""Below so many prompts it is said beside a table that they are few."""
MAIN = ("eval/win_rate", "eval/accuracy")
"""Metrics that runs are ranked by: the first that a headline has."""
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


def read_report(directory: Path) -> dict[str, Estimate]:
    """Metric name → estimate, from the table of a Report."""
    from tasks.kinds import Report

    rows = Report(directory).table.to_pylist()
    return {
        r["name"]: Estimate(
            math.nan if r["value"] is None else r["value"], r["ci_low"], r["ci_high"], r["n"], r["unit"]
        )
        for r in rows
    }


def headlines(steps: Sequence[FinishedStep]) -> list[FinishedStep]:
    """The evaluations that stand for a run, by round."""
    return sorted((s for s in steps if s.record.kind == "Report" and s.headline), key=lambda s: s.round or 0)


def floors(steps: Sequence[FinishedStep]) -> list[FinishedStep]:
    """Evaluations whose two sides are one policy: base against base, which must hold one half."""
    made = {s.record.content: s for s in steps}
    reports = [s for s in steps if s.record.kind == "Report" and not s.headline]
    return [s for s in reports if _against_itself(s, made)]


def main_metric(metrics: Mapping[str, Estimate]) -> str:
    """The metric that a headline is ranked by; empty if it has none."""
    return next((m for m in MAIN if m in metrics and not math.isnan(metrics[m].value)), "")


def run_results(store: Store, steps: Sequence[FinishedStep]) -> RunResults:
    """The headline by round, base against base (the evaluation whose two sides are one policy), and all others."""
    floor = floors(steps)[:1]
    rest = [s for s in steps if s.record.kind == "Report" and not s.headline and s not in floor]
    return RunResults(
        floor=_row(store, floor[0], "base", 0) if floor else None,
        rows=tuple(_row(store, s, _label(s), s.round) for s in headlines(steps)),
        others=tuple(_row(store, s, s.title, s.round) for s in rest),
        notices=tuple((s.title, text) for s in steps if s.record.kind != "Report" for text in s.record.notices),
    )


def sides(report: FinishedStep, made: Mapping[str, FinishedStep]) -> tuple[FinishedStep | None, FinishedStep | None]:
    """The two samplings behind an evaluation: the policy's and the baseline's, where the run holds them."""
    return _parent(report, "completions", made), _parent(report, "others", made)


def parent_contents(record: Record, port: str) -> list[str]:
    """Content digests that fed `port`; empty if nothing did."""
    return [p.content for p in record.parents.get(port, ())]


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

    shown = [m for m in COLUMNS if any(m in r.metrics for r in rows)]
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column("")
    drawn.add_column("prompts", justify="right")
    for metric in shown:
        drawn.add_column(COLUMNS[metric], justify="right", no_wrap=True)
    for row in rows:
        label = "base vs. base" if row is found.floor else row.label
        style = "bold" if found.rows and row is found.rows[-1] else "dim" if row in found.others else ""
        drawn.add_row(label, str(row.n), *(table_cell(m, row.metrics.get(m)) for m in shown), style=style)
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
        drawn.add_row(name, _number(e.value), ends, str(e.n), e.unit, style="bold" if name in MAIN else "")
    return drawn


def _number(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.4f}"


def warnings(found: RunResults) -> list[str]:
    """What must be read beside the numbers, each said once, with the rows it belongs to."""
    rows = [*_main_rows(found), *found.others]
    return _once((row.label, notice) for row in rows for notice in (*row.notices, *_few(row)))


def _few(row: ResultRow) -> Iterator[str]:
    if row.n < FEW and row.metrics.keys() & COLUMNS.keys():
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


def _parent(step: FinishedStep, port: str, made: Mapping[str, FinishedStep]) -> FinishedStep | None:
    return next((made[c] for c in parent_contents(step.record, port) if c in made), None)


def _against_itself(report: FinishedStep, made: Mapping[str, FinishedStep]) -> bool:
    ours, theirs = sides(report, made)
    if ours is None or theirs is None:
        return False
    policy = parent_contents(ours.record, "policy")
    return bool(policy) and policy == parent_contents(theirs.record, "policy")


def _label(step: FinishedStep) -> str:
    if step.round:
        return f"round {step.round}"
    return "policy" if {"completions", "logps"} & step.record.parents.keys() else step.title


def _row(store: Store, step: FinishedStep, label: str, round: int | None) -> ResultRow:
    return ResultRow(label, round, read_report(store.root / step.record.path), tuple(_beside(store, step.record)))


def _beside(store: Store, report: Record) -> Iterator[str]:
    """What must be said beside a report's numbers."""
    yield from report.notices
    if oracle_also_trained(store, report):
        yield "the oracle that judged here also trained the policy"
    params = report.parts.get("params")
    if isinstance(params, dict) and params.get("allow_seen"):
        inputs = {port: [r for p in several if (r := store.record(p.key))] for port, several in report.parents.items()}
        told = refuse_seen(store, inputs, allow=True)
        yield from [told] if told else []


def plain_number(e: Estimate) -> JSON:
    """An estimate for scripts; NaN becomes null."""
    return {**vars(e), "value": None if math.isnan(e.value) else e.value}


def table_cell(metric: str, e: Estimate | None) -> str:
    """An estimate as people read it, with its interval where the column's head says so."""
    if e is None or math.isnan(e.value):
        return NOTHING
    if metric == "eval/finished":
        return f"{e.value:.1%}"
    if metric == "eval/accuracy_change":
        ends = "" if e.low is None or e.high is None else f" ({signed_text(e.low)} to {signed_text(e.high)})"
        return f"{signed_text(e.value)}{ends}"
    digits = 3 if e.unit == "probability" else 1 if e.unit == "tokens" else 2
    low, high = (e.low, e.high) if "CI" in COLUMNS[metric] else (None, None)
    return estimate_text(e.value, low, high, digits)


def estimate_text(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """`0.612 (0.581–0.643)`; without both ends only the value, and – where there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    ends = "" if low is None or high is None else f" ({low:.{digits}f}–{high:.{digits}f})"
    return f"{round(value, digits) + 0.0:.{digits}f}{ends}"


def signed_text(value: float) -> str:
    """A difference with its sign, of either kind."""
    return f"{value:+.3f}".replace("-", "−")
