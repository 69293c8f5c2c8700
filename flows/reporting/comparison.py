"""The comparison of several runs: their headlines by round, what they were measured with, and which differences are
significant. Everything is read from runs and records, so MLflow is not needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from flows.reporting.comparability import differing_facts, measurement_facts
from flows.reporting.results import RunResults, costs, headlines, main_metric, run_results
from flows.store.finished import FinishedStep, finished_steps
from flows.store.records import Record
from flows.store.runs import Run, Runs
from flows.store.store import Store
from tasks.contract import JSON, SpecError

if TYPE_CHECKING:
    import polars as pl


class PairedMean(NamedTuple):
    """Mean of a − b over `n` prompts that both were measured on, and its standard error."""

    value: float
    error: float
    n: int

    def ends(self, several: int = 1) -> tuple[float, float]:
        """The ends of its 95% interval (Student's t), or of one out of `several` that hold together with 95%."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.n - 1, 1 - 0.025 / several)) * self.error
        return self.value - half, self.value + half


class MetricDifference(NamedTuple):
    """Mean of a − b over the prompts that both were measured on, with its interval.

    All intervals of a comparison hold together with 95% (Bonferroni), because the best of many runs is chosen after the
    numbers are known. Holm's procedure has a little more power, but no intervals that agree with its decisions.
    """

    a: str
    b: str
    value: float
    low: float
    high: float
    n: int
    higher_is_better: bool = True

    @property
    def winner(self) -> str:
        """The run that is better over the whole interval; empty if the interval contains 0."""
        higher = self.a if self.low > 0 else self.b if self.high < 0 else ""
        return higher if self.higher_is_better or not higher else self.b if higher == self.a else self.a


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison."""

    run: Run
    label: str
    steps: tuple[FinishedStep, ...]
    results: RunResults
    reports: tuple[FinishedStep, ...]
    """Its headline evaluations, by round; at least one."""

    @property
    def metric(self) -> str:
        """The metric that it is ranked by."""
        return main_metric(self.results.rows[-1].metrics)

    @property
    def value(self) -> float:
        """That metric after the last round, as it is ranked: higher is better."""
        return self.results.rows[-1].metrics[self.metric].goodness if self.metric else float("-inf")

    @property
    def hits(self) -> int:
        return sum(s.hit for s in self.steps)

    def spent(self, round: int | None) -> dict[str, float]:
        """The costs of its steps until the end of a round: what it took to make them, cached ones included."""
        return costs(s for s in self.steps if not s.round or not round or s.round <= round)


@dataclass(frozen=True)
class Comparison:
    """Runs in the order of the request, or ranked, best first."""

    entries: tuple[ComparedRun, ...]
    differences: tuple[MetricDifference, ...]
    """Between the last headlines of every two runs; empty where they may not be ranked."""
    differ: Mapping[str, Mapping[str, str | None]]
    """The facts of their measurements that differ; always empty if they are ranked."""

    @property
    def spent(self) -> dict[str, float]:
        """The costs of all runs together: a step that several of them share counts once."""
        return costs({step.record.key: step for entry in self.entries for step in entry.steps}.values())

    def rank(self, entry: ComparedRun) -> int:
        """1 + the number of runs that are significantly better.

        A better rank does not imply a significant difference: where only A > C is significant, A and B are first and C
        is second.
        """
        return 1 + sum(entry.label in (d.a, d.b) and d.winner not in ("", entry.label) for d in self.differences)


def chosen_runs(runs: Runs, refs: Sequence[str]) -> list[Run]:
    """The runs that RUN… names: ids, their first letters, `last`, NAME (a pipeline's last finished run), or
    PIPELINE/DEPLOYMENT (its last finished tick). A run that is named twice is returned once. Raises SpecError.

    Only an id names a run without a headline of its own, such as the steps `after` a loop of ticks. NAME is a
    deployment's run only where the pipeline has no other.
    """
    return list({run.id: run for run in (_chosen(runs, ref) for ref in refs)}.values())


def _chosen(runs: Runs, ref: str) -> Run:
    if ref == "last":
        return next((run for run in runs.newest() if run.has_headline), None) or runs.find_run(ref)
    called = [run for run in runs.newest(ref.partition("/")[0]) if ref in (run.title, run.pipeline)]
    if not called and any(id.startswith(ref) for id in runs.ids()):
        return runs.find_run(ref)
    if not called:
        known = ", ".join(sorted({r.title for r in runs.newest()})) or "none yet"
        raise SpecError(f"there is no run of '{ref}'; pipelines and deployments that have run: {known}")
    finished = [run for run in called if run.status == "done"]
    if not finished:
        raise SpecError(f"no run of '{ref}' has finished; name one by its id, e.g. {called[0].id}")
    measured = [run for run in finished if run.has_headline]
    return next((run for run in measured if run.title == ref), (measured or finished)[0])


def comparison(store: Store, chosen: Sequence[Run], *, ranked: bool = True) -> Comparison:
    """Compare runs. Raises SpecError for a run without a headline, and if `ranked` for runs that are not comparable."""
    entries = tuple(_entry(store, run, label) for run, label in zip(chosen, run_labels(chosen), strict=True))
    differ = differing_facts({title: measurement_facts(store, record) for title, record in _measured(entries)})
    if differ and ranked:
        raise SpecError(_refusal(differ))
    if not ranked:
        return Comparison(entries, (), differ)
    ordered = tuple(sorted(entries, key=lambda e: -e.value))
    return Comparison(ordered, tuple(_differences(store, ordered)), {})


def run_labels(several: Sequence[Run]) -> list[str]:
    """The title of each run; where several have the same, with the parameters that differ, or else the run's time."""
    return [_label(run, [r for r in several if r.title == run.title]) for run in several]


def _label(run: Run, alike: Sequence[Run]) -> str:
    if len(alike) == 1:
        return run.title
    names = dict.fromkeys(name for r in alike for name in r.parameters)
    varied = [n for n in names if len({short_value(r.parameters.get(n)) for r in alike}) > 1]
    mine = " ".join(f"{n}={short_value(run.parameters.get(n))}" for n in varied)
    theirs = [" ".join(f"{n}={short_value(r.parameters.get(n))}" for n in varied) for r in alike if r is not run]
    if not varied or mine in theirs:
        mine = f"{mine} {run.id[4:6]}-{run.id[6:8]} {run.id[9:11]}:{run.id[11:13]} {run.id[-4:]}".strip()
    return f"{run.title} {mine}"


def short_value(value: JSON) -> str:
    """A parameter in few letters: `dpo(beta=0.1)` for a choice with parameters."""
    if isinstance(value, dict) and "choice" in value:
        return short_value({str(value["choice"]).rpartition("/")[2]: value.get("params", {})})
    if isinstance(value, dict) and len(value) == 1:
        [(name, given)] = value.items()
        own = [f"{k}={short_value(v)}" for k, v in given.items()] if isinstance(given, dict) else [short_value(given)]
        return f"{name}({', '.join(own)})" if own else name
    return value if isinstance(value, str) else json.dumps(value)


def _entry(store: Store, run: Run, label: str) -> ComparedRun:
    steps = finished_steps(store, run)
    reports = headlines(steps)
    if not reports:
        raise SpecError(f"run {run.id} ({run.status}) has no finished step `report`: there is nothing to compare")
    return ComparedRun(run, label, tuple(steps), run_results(store, steps), tuple(reports))


def _measured(entries: Sequence[ComparedRun]) -> Iterator[tuple[str, Record]]:
    for entry in entries:
        for report in entry.reports:
            yield f"{entry.label}{f' round {report.round}' if report.round else ''}", report.record


def _refusal(differ: Mapping[str, Mapping[str, str | None]]) -> str:
    head = "these runs are not comparable, because they were measured with different"
    hint = "Evaluate them in the same way (the step `report`), leave some out, or add --unranked."
    return "\n".join([head, *(f"  {line}" for line in fact_lines(differ)), hint])


def fact_lines(differ: Mapping[str, Mapping[str, str | None]]) -> Iterator[str]:
    """A line for each fact that differs: its values, and which runs have them."""
    for name, values in differ.items():
        evaluations: dict[str, list[str]] = {}
        for evaluation, value in values.items():
            evaluations.setdefault(value or "none", []).append(evaluation)
        yield f"{name}: {'; '.join(f'{value} ({_grouped(several)})' for value, several in evaluations.items())}"


def _grouped(names: Sequence[str]) -> str:
    """Names of evaluations, a run's rounds in one: `sppo rounds 1–3`."""
    rounds: dict[str, list[str]] = {}
    for name in names:
        run, _, round = name.partition(" round ")
        rounds.setdefault(run, []).append(round)
    return ", ".join(f"{run} {_rounds(several)}".strip() for run, several in rounds.items())


def _rounds(rounds: Sequence[str]) -> str:
    if rounds == [""]:
        return ""
    return f"round {rounds[0]}" if len(rounds) == 1 else f"rounds {rounds[0]}–{rounds[-1]}"


def _differences(store: Store, entries: Sequence[ComparedRun]) -> Iterator[MetricDifference]:
    """The differences of every two runs whose Reports have a table by prompt."""
    tables = {e.label: _per_prompt(store, e) for e in entries}
    means: dict[tuple[str, str], PairedMean] = {}
    higher = all(e.results.rows[-1].metrics[e.metric].metric.higher_is_better for e in entries if e.metric)
    for a, b in combinations(entries, 2):
        ours, theirs = tables[a.label], tables[b.label]
        if not a.metric or a.metric != b.metric or ours is None or theirs is None:
            continue
        if mean := paired_mean(ours, theirs, a.metric.rpartition("/")[2]):
            means[a.label, b.label] = mean
    for pair, mean in means.items():
        yield MetricDifference(*pair, mean.value, *mean.ends(len(means)), mean.n, higher)


def _per_prompt(store: Store, entry: ComparedRun) -> pl.DataFrame | None:
    import polars as pl

    from tasks.kinds import Report

    table = Report(store.root / entry.reports[-1].record.path).per_prompt
    return None if table is None else pl.DataFrame(pl.from_arrow(table))


def paired_mean(a: pl.DataFrame, b: pl.DataFrame, column: str) -> PairedMean | None:
    """Mean of a − b with its standard error, over the prompts that both have; None below two.

        d = Σ wᵢ(aᵢ − bᵢ) / Σ wᵢ,   s = √(n/(n − 1)·Σ (wᵢ(aᵢ − bᵢ − d))²) / Σ wᵢ

    with w the number of pairs of a prompt, the smaller of both, where the tables have one (`pairs`); else 1: then s is
    that of the paired t interval. Prompts of weight 0 do not count.
    """
    import polars as pl

    def weighed(table: pl.DataFrame, name: str) -> pl.DataFrame:
        weight = pl.col("pairs").cast(float) if "pairs" in table.columns else pl.lit(float("inf"))
        return table.select("prompt_id", pl.col(column).alias(name), weight.alias(f"weight_{name}"))

    both = weighed(a, "a").join(weighed(b, "b"), on="prompt_id").drop_nulls()
    both = both.select(pl.col("a") - pl.col("b"), weight=pl.min_horizontal("weight_a", "weight_b"))
    both = both.filter(pl.col("weight") > 0).with_columns(pl.col("weight").replace(float("inf"), 1.0))
    n = len(both)
    if n < 2:
        return None
    weights, delta = both["weight"].to_numpy(), both["a"].to_numpy()
    value = float((weights * delta).sum() / weights.sum())
    spread = float(((weights * (delta - value)) ** 2).sum()) * n / (n - 1)
    return PairedMean(value, spread**0.5 / float(weights.sum()), n)
