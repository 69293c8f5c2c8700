"""The comparison of several runs: their headlines by round, what they were measured with, and which differences are
significant. Everything is read from runs and records, so MLflow is not needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean
from typing import TYPE_CHECKING

from flows.reporting.comparability import differing_facts, measurement_facts
from flows.reporting.differences import MeasuredMethod, MetricDifference, metric_differences
from flows.reporting.over_seeds import OverSeeds, over_seeds
from flows.reporting.results import RunResults, costs, headlines, main_metric, run_results
from flows.reporting.seeds import SEED, SeededRun, by_method, seed_of
from flows.store.finished import FinishedStep, finished_steps
from flows.store.records import Record
from flows.store.runs import Run, Runs
from flows.store.store import Store
from tasks.contract import JSON, SpecError

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison."""

    run: Run
    label: str
    steps: tuple[FinishedStep, ...]
    results: RunResults
    reports: tuple[FinishedStep, ...]
    """Its headline evaluations, by round; at least one."""
    per_prompt: pl.DataFrame | None = None
    """Values of its last headline by prompt."""

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
class ComparedMethod:
    """Runs that differ in nothing but their seed; most often one."""

    label: str
    entries: tuple[ComparedRun, ...]
    """By seed."""

    @property
    def value(self) -> float:
        """The mean of what its runs are ranked by; higher is better."""
        return mean(entry.value for entry in self.entries)

    @property
    def metric(self) -> str:
        """The metric that its runs are ranked by; empty if they have none."""
        metrics = {entry.metric for entry in self.entries}
        return metrics.pop() if len(metrics) == 1 else ""

    @property
    def tables(self) -> list[pl.DataFrame]:
        """The values by prompt of each run; empty where one has none."""
        tables = [entry.per_prompt for entry in self.entries]
        return [t for t in tables if t is not None] if all(t is not None for t in tables) else []

    @cached_property
    def over_seeds(self) -> dict[str, OverSeeds]:
        """The last headline's metrics over its seeds; empty for a single one."""
        rows = [entry.results.rows[-1] for entry in self.entries]
        return over_seeds(rows, self.tables) if len(rows) > 1 else {}


@dataclass(frozen=True)
class Comparison:
    """Methods in the order of the request, or ranked, best first."""

    methods: tuple[ComparedMethod, ...]
    differences: tuple[MetricDifference, ...]
    """Between the last headlines of every two methods; empty where they may not be ranked."""
    differ: Mapping[str, Mapping[str, str | None]]
    """The facts of their measurements that differ; always empty if they are ranked."""

    @property
    def entries(self) -> tuple[ComparedRun, ...]:
        """The runs of all methods, in their order."""
        return tuple(entry for method in self.methods for entry in method.entries)

    @property
    def spent(self) -> dict[str, float]:
        """The costs of all runs together: a step that several of them share counts once."""
        return costs({step.record.key: step for entry in self.entries for step in entry.steps}.values())

    def rank(self, method: ComparedMethod) -> int:
        """1 + the number of methods that are significantly better.

        A better rank does not imply a significant difference: where only A > C is significant, A and B are first and C
        is second.
        """
        return 1 + sum(method.label in (d.a, d.b) and d.winner not in ("", method.label) for d in self.differences)

    def ranked(self) -> Comparison:
        """The same in the order of ranks, and of values where these are equal."""
        return replace(self, methods=tuple(sorted(self.methods, key=lambda m: (self.rank(m), -m.value))))


def about_seeds(methods: Sequence[ComparedMethod]) -> str:
    """What the intervals contain of the variation between trainings."""
    several = [f"{m.label} ({len(m.entries)} seeds)" for m in methods if len(m.entries) > 1]
    single = [m.label for m in methods if len(m.entries) == 1]
    if not several:
        return "Each run is one training: the intervals do not contain how another seed would come out."
    contain = f"The intervals contain the variation between the seeds of {', '.join(several)}"
    if not single:
        return f"{contain}."
    is_single = "that is one training" if len(single) == 1 else "these are one training each"
    return f"{contain}, but not of {', '.join(single)}: {is_single}."


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
    entries = [_entry(store, run, label) for run, label in zip(chosen, run_labels(chosen), strict=True)]
    differ = differing_facts({title: measurement_facts(store, record) for title, record in _measured(entries)})
    if differ and ranked:
        raise SpecError(_refusal(differ))
    methods = tuple(_methods(entries))
    if not ranked:
        return Comparison(methods, (), differ)
    by_value = tuple(sorted(methods, key=lambda m: -m.value))
    return Comparison(by_value, tuple(_differences(by_value)), {}).ranked()


def _methods(entries: Sequence[ComparedRun]) -> Iterator[ComparedMethod]:
    """Runs that differ in nothing but their seed as one method, under the label of what they have in common."""
    groups = by_method([SeededRun(entry.run, entry.steps) for entry in entries])
    shared = run_labels([entries[group[0]].run for group in groups], seeds=False)
    for label, group in zip(shared, groups, strict=True):
        of_seeds = sorted((entries[i] for i in group), key=lambda e: f"{seed_of(e.run)!s:>20}")
        yield ComparedMethod(label if len(group) > 1 else of_seeds[0].label, tuple(of_seeds))


def _differences(methods: Sequence[ComparedMethod]) -> list[MetricDifference]:
    rows = [(m.entries[0].results.rows[-1], m.metric) for m in methods]
    higher = all(row.metrics[metric].metric.higher_is_better for row, metric in rows if metric)
    measured = [MeasuredMethod(m.label, m.metric, m.tables) for m in methods]
    return metric_differences(measured, higher_is_better=higher)


def run_labels(several: Sequence[Run], *, seeds: bool = True) -> list[str]:
    """The title of each run; where several have the same, with the parameters that differ, or else the run's time.

    seeds: whether the seed is one of these parameters.
    """
    return [_label(run, [r for r in several if r.title == run.title], seeds) for run in several]


def _label(run: Run, alike: Sequence[Run], seeds: bool) -> str:
    if len(alike) == 1:
        return run.title
    values = {r.id: {**r.parameters, **({SEED: seed_of(r)} if seeds else {})} for r in alike}
    names = [n for n in dict.fromkeys(name for own in values.values() for name in own) if seeds or n != SEED]
    varied = [n for n in names if len({short_value(own.get(n)) for own in values.values()}) > 1]

    def own(r: Run) -> str:
        """Without parameters that have no value, unless there is no other: `loss=hinge` leaves `beta` without one."""
        named = [n for n in varied if values[r.id].get(n) is not None] or varied
        return " ".join(f"{n}={short_value(values[r.id].get(n))}" for n in named)

    mine = own(run)
    if not varied or mine in [own(r) for r in alike if r is not run]:
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
    return ComparedRun(
        run, label, tuple(steps), run_results(store, steps), tuple(reports), _per_prompt(store, reports[-1])
    )


def _per_prompt(store: Store, report: FinishedStep) -> pl.DataFrame | None:
    import polars as pl

    from tasks.kinds import Report

    table = Report(store.root / report.record.path).per_prompt
    return None if table is None else pl.DataFrame(pl.from_arrow(table))


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
