"""A run on a tracking server: a run of its own with metrics per round as steps, a child per step that trained, lineage.

Everything is read from the run's file and from records, so a cached step is as complete as a fresh one, and a run can
be published again at any time. The names of metrics are equal for all pipelines; step = round, and 0 is base against
base.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.reporting.report.page import report_file
from flows.reporting.results import (
    Estimate,
    base_check_of,
    costs,
    headlines,
    main_metric,
    read_report,
    run_results,
)
from flows.reporting.sinks.mlflow_view import REPORT
from flows.reporting.sinks.run_facts import FACTS, RESOLVED, yaml_text
from flows.reporting.sinks.tracking import MetricRow, TrackingServer, family_name, milliseconds
from flows.reporting.totals import declared_totals
from flows.store.finished import FinishedStep, finished_steps
from flows.store.lineage import origin
from flows.store.records import Record
from flows.store.runs import Run
from flows.store.store import Store
from flows.store.views import RecordViews
from flows.wiring.views import MODELS
from tasks.contract import JSON

DIGITS = 5
DIGEST = 32
"""Letters of a dataset's digest; MLflow refuses more than 36."""
MAX_PARAMS = 100
"""Parameters that MLflow takes in one call."""
TAG = 5000
"""Letters of a tag; MLflow cuts at 8,000."""
USED, WRITTEN = "used", "written"
"""First words of tags with digests: after all others in the order of the alphabet."""
STATUS = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "waiting": "SCHEDULED"}


class Publication:
    """Publishes one run to one server. Publishing it a second time changes nothing."""

    def __init__(self, store: Store, server: TrackingServer, run: Run) -> None:
        self._store, self.server, self._run = store, server, run
        self._models: set[str] = set()

    def whole(self) -> None:
        """Publish all of a run that is over."""
        self.begin()
        for step in self._run.steps.values():
            if step.carried and step.content:
                self.carried(step.id, step.content)
        steps = finished_steps(self._store, self._run)
        for done in steps:
            self.step(done)
        self.end(steps)

    def begin(self) -> None:
        run: Run = self._run
        facts: Any = run.extra[FACTS]
        tags = {
            "alignflow.run": run.id, "pipeline": run.pipeline, "deployment": run.deployment,
            "prefect.flow_run_id": run.links.get("prefect", ""),
        }  # fmt: skip
        self.server.start(run.id, facts["title"], tags, milliseconds(run.started), about=facts["about"])
        self.server.params(run.id, facts["params"])
        self.server.files(run.id, [*(self._store.root / "logs" / run.id).glob(RESOLVED)], "config")

    def carried(self, step: str, content: str) -> None:
        """Publish a value that an earlier tick left; that tick's run has its costs."""
        self.server.tags(self._run.id, {f"{USED}.{step}": content})

    def step(self, done: FinishedStep) -> None:
        """Publish a finished step: a run of its own if it trained, metrics of the run if it is a headline."""
        if done.trained:
            self._child(done)
        if done.record.kind == "Report" and done.headline:
            self._report(done, done.round or 1)

    def end(self, steps: Sequence[FinishedStep]) -> None:
        """Publish what all steps have in common, and how the run ended."""
        run = self._run
        if base_check := base_check_of(self._store, steps):
            self._report(base_check, 0)
        rows: list[MetricRow] = []
        for row in run_results(self._store, steps).others:
            of_run = {name: e for name, e in row.metrics.items() if e.metric.of_run}
            rows += _rows(_flat(of_run), row.round or run.rounds or 1)
        rows += [*_best_rows(self._store, steps), *_cost_rows(steps, run.rounds), *_total_rows(self._store, steps)]
        self.server.metrics(run.id, rows, milliseconds(run.ended))
        self._lineage(steps)
        self._registered(steps)
        self.server.files(run.id, sorted(self._store.inside("figures", run.id).glob("*.png")), "figures")
        if (report := report_file(self._store, [run])).exists():
            self.server.text(run.id, report.read_text(), REPORT)
        if run.status == "failed":
            reasons = {s.id: s.reason for s in run.steps.values() if s.state == "failed"}
            self.server.text(run.id, yaml_text(reasons), "errors.yaml")
        if waits_for := {s.id: s.reason for s in run.steps.values() if s.state == "waiting"}:
            self.server.text(run.id, yaml_text(waits_for), "waits_for_people.yaml")
        self.server.end(run.id, STATUS.get(run.status, "FAILED"), milliseconds(run.ended))

    def _at(self, record: Record) -> int:
        """When this run had the result of a step: later than it was made, where it was a hit."""
        return milliseconds(max(self._run.started, record.made))

    def _report(self, report: FinishedStep, step: int) -> None:
        """Publish what was measured of a model, as numbers of the run and of the model on these prompts."""
        model, prompts = measured(self._store, report.record)
        if model and model.content not in self._models:
            self._model(model, self._run.id, f"{self._run.pipeline} {report.name}", 0)
        rows = _rows(_flat(read_report(self._store, report.record)), step)
        data = self._dataset("held out", "evaluation", prompts) if prompts else None
        self.server.metrics(self._run.id, rows, self._at(report.record), model.content if model else "", data)

    def _child(self, done: FinishedStep) -> None:
        """Publish a step that trained as a run of its own, with the curves of its record."""
        record, step = done.record, done.addresses[0]
        name, at = f"{self._run.id}/{step}", self._at(record)
        tags = {
            "pipeline": self._run.pipeline, "step": step, "task": record.task, "cached": str(done.hit).lower(),
            "made": record.made, "commit": record.commit, "key": record.key, f"{WRITTEN}.{record.kind}": record.content,
        }  # fmt: skip
        fed = {f"{USED}.{port}": ",".join(p.content for p in several) for port, several in record.parents.items()}
        self.server.start(name, done.title, tags | {k: v[:TAG] for k, v in fed.items()}, at, parent=self._run.id)
        if done.hit:
            self.server.original(name, record.key)
        self.server.params(name, _step_params(record))
        curves = [(m, v, int(row["step"])) for row in record.curves for m, v in row.items() if m != "step"]
        totals = {f"total/{k}": v for k, v in record.totals.items()} | {"seconds": record.seconds}
        self.server.metrics(name, [*curves, *_rows(totals, 0)], at)
        several = ((port, p) for port, parents in record.parents.items() for p in parents)
        used = [self._dataset(port, "training", made) for port, p in several if (made := self._store.record(p.key))]
        self.server.inputs(name, [d for d in used if d])
        self._model(record, name, f"{self._run.pipeline} {done.title}", done.round or 1)
        self.server.end(name, "FINISHED", at)

    def _model(self, record: Record, run: str, title: str, step: int) -> None:
        """Publish a model by its digest, as an output of the run of its step and of the pipeline's run."""
        self._models.add(record.content)
        tags = {
            "path": str(self._store.root / record.path), "pipeline": self._run.pipeline, "key": record.key,
            "made": record.made, "commit": record.commit, "location": record.location,
            "base": ",".join(record.refers_to),
        }  # fmt: skip
        title = re.sub(r"[^A-Za-z0-9-]+", "-", title)
        for whose in dict.fromkeys((run, self._run.id)):
            self.server.model(
                whose, record.content, title, record.kind, step, {k: v[:TAG] for k, v in tags.items() if v},
                _step_params(record),
            )  # fmt: skip

    def _lineage(self, steps: Sequence[FinishedStep]) -> None:
        """Publish by digest the inputs of the run (artifacts without parents), its outputs (models and headline
        reports), and the lineage between them."""
        sources = [s for s in steps if not s.record.parents]
        ended = [s for s in steps if s.record.kind in MODELS or (s.headline and s.record.kind == "Report")]
        used = [self._dataset(s.name, s.name, s.record) for s in sources]
        self.server.inputs(self._run.id, [d for d in used if d])
        tags = {f"{USED}.{_tag(s)}": s.record.content for s in sources}
        self.server.tags(self._run.id, tags | {f"{WRITTEN}.{_tag(s)}": s.record.content for s in ended})
        whole = {s.addresses[0]: {**_lineage_of(s.record), "hit": s.hit} for s in steps}
        self.server.text(self._run.id, json.dumps(whole, indent=1), "lineage.json")

    def _registered(self, steps: Sequence[FinishedStep]) -> None:
        """Register the model that the last headline measured, where the run is done: it is what the run was for."""
        reports = headlines(steps) if self._run.status == "done" else []
        model = measured(self._store, reports[-1].record)[0] if reports else None
        if model:
            self.server.register(self._run.id, family_name(self._run.pipeline, self._run.deployment), model.content)

    def _dataset(self, name: str, context: str, record: Record) -> dict[str, str] | None:
        """A table, named by the digest of its content; None for what is no table."""
        if record.rows is None:
            return None
        path = str(self._store.root / record.path)
        return {"name": f"{name} ({record.kind})", "digest": record.content[:DIGEST], "path": path, "context": context}


def _rows(metrics: Mapping[str, float], step: int) -> list[MetricRow]:
    """Metrics at a step, rounded to DIGITS digits but for whole numbers: a column of MLflow's table shows so many, and
    intervals over prompts are far wider."""
    return [(n, v if float(v).is_integer() else float(f"{v:.{DIGITS}g}"), step) for n, v in metrics.items()]


def _best_rows(store: Store, steps: Sequence[FinishedStep]) -> list[MetricRow]:
    """The best round's win rate (or accuracy): a chart ends with the last round, which need not be the best."""
    by_round = [(s.round or 1, read_report(store, s.record)) for s in headlines(steps)]
    several = [(metrics[m], at, m) for at, metrics in by_round if (m := main_metric(metrics))]
    best = sorted(several, key=lambda one: one[0].goodness)[-1:]
    return [row for e, at, name in best for row in _rows({"/best_".join(name.rsplit("/", 1)): e.value}, at)]


def _cost_rows(steps: Sequence[FinishedStep], rounds: int) -> list[MetricRow]:
    """The costs until the end of each round, cached steps included; steps outside the rounds count from the start."""
    outside, hits = 0 if rounds else 1, sum(s.hit for s in steps)
    rows = _rows({"cache/hits": hits, "cache/misses": len(steps) - hits}, rounds or 1)
    for at in sorted({s.round or outside for s in steps}):
        rows += _rows(costs(s for s in steps if (s.round or outside) <= at), at)
    return rows


def _total_rows(store: Store, steps: Sequence[FinishedStep]) -> Iterator[MetricRow]:
    """`total/<step>/<name>`: the totals that the tasks of steps declare, by round. A step that trained has its own in
    its child."""
    for step in steps:
        shown = {} if step.trained else declared_totals(store, step.record)
        yield from _rows({f"total/{step.name}/{name}": step.record.totals[name] for name in shown}, step.round or 1)


def measured(store: Store, report: Record) -> tuple[Record | None, Record | None]:
    """The model whose numbers a Report holds, and the prompts or pairs that it was measured on, where known."""
    evaluation = RecordViews(store).of(report).evaluation
    model, data = (evaluation.model, evaluation.data) if evaluation else (None, None)
    return (origin(model) if model and model.kind in MODELS else None), origin(data) if data else None


def _tag(step: FinishedStep) -> str:
    """An address in the letters that MLflow allows: `policy:2` for `policy@2`."""
    return step.addresses[0].replace("@", ":")


def _lineage_of(record: Record) -> dict[str, JSON]:
    fields = ("kind", "task", "key", "content", "seconds", "made", "commit")
    parents: JSON = {port: [p.content for p in several] for port, several in record.parents.items()}
    return {**{name: getattr(record, name) for name in fields}, "parents": parents}


def _flat(metrics: Mapping[str, Estimate]) -> dict[str, float]:
    """Metric names and values. Only metrics that runs are ranked by have the ends of their intervals, to keep charts
    few."""
    values: dict[str, float | None] = {name: e.value for name, e in metrics.items()}
    for name, e in metrics.items():
        values |= {f"{name}_low": e.low, f"{name}_high": e.high} if e.metric.ranks else {}
    return {name: value for name, value in values.items() if value is not None and not math.isnan(value)}


def _step_params(record: Record) -> dict[str, str]:
    """A step's parameters as MLflow compares them; a choice is its name, its own parameters follow."""
    params, texts = record.parts.get("params"), dict[str, str]()
    for name, value in params.items() if isinstance(params, dict) else ():
        if isinstance(value, dict) and isinstance(value.get("choice"), str):
            texts[name] = str(value["choice"]).rpartition("/")[2]
            own = value.get("params")
            texts |= {f"{name}.{k}": json.dumps(v) for k, v in own.items()} if isinstance(own, dict) else {}
        elif value is not None:
            texts[name] = value if isinstance(value, str) else json.dumps(value)
    return dict(list(texts.items())[:MAX_PARAMS])
