"""A run in MLflow: a parent run per pipeline run, metrics per round as steps, a child per step that trained, lineage.

Everything is read from records, so a cached step is as complete as a fresh one. The names of metrics are equal for all
pipelines; step = round, and 0 is base against base.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.reporting.comparison import short_value
from flows.reporting.figures.run_figures import draw_figures, figure_cache
from flows.reporting.parameters import chosen_params, overridden_parameters
from flows.reporting.results import (
    MAIN,
    Estimate,
    FinishedStep,
    costs,
    floors,
    headlines,
    main_metric,
    read_report,
    run_results,
)
from flows.reporting.sinks.mlflow_sink import Sink, milliseconds
from flows.reporting.sinks.mlflow_view import run_page
from flows.run.events import Listener
from flows.store.keys import plain_value
from flows.store.lineage import MODELS
from flows.store.records import Record
from flows.store.retained import CARRIED
from flows.store.runs import Run, Runs
from flows.store.store import Store
from flows.wiring.model import Graph, Node
from tasks.contract import JSON

NAME = 60
"""Letters of a run's name."""
DIGEST = 32
"""Letters of a dataset's digest; MLflow refuses more than 36."""
MAX_PARAMS = 100
"""Parameters that MLflow takes in one call."""
TAG = 5000
"""Letters of a tag; MLflow cuts at 8,000."""
USED, WRITTEN = "used", "written"
"""What tags with digests are called, by what they are of: after all others in the order of the alphabet."""
GAME = ("eval/exploitability_last", "eval/exploitability_mixture")
"""Metrics of reports behind the rounds that the run itself is told by."""
STATUS = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class Tracker(Listener):
    """Tells MLflow of a run, and draws its figures. `close` after the run waits for the rest to be delivered."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sink = Sink(store.root)
        self._done: dict[str, FinishedStep] = {}
        self._models: set[str] = set()
        self._run = ""
        self._began: Run | None = None
        self._graph: Graph

    @property
    def uri(self) -> str:
        """Where the run is tracked."""
        return self._sink.uri

    @property
    def page(self) -> str:
        """The run's page below the address of `mlflow ui`; empty if MLflow has not heard of it."""
        link = self._sink.link(self._run)
        return run_page(link) if link else ""

    def close(self, seconds: float = 60.0) -> str:
        """Wait for MLflow, at most `seconds`. Returns what went wrong, or nothing; the next run tries again."""
        trouble = self._sink.close(seconds)
        link = self._sink.link(self._run)
        if link and self._began and self._began.status != "running":
            self._began.links["mlflow"] = link
            Runs(self._store).save(self._began)
        return trouble

    # Events

    def run_started(self, run: Run, graph: Graph, logs: Path) -> None:
        self._run, self._graph, self._began = run.id, graph, run
        tags = {
            "alignflow.run": run.id, "pipeline": graph.pipeline, "deployment": run.deployment,
            "mlflow.note.content": graph.about, "prefect.flow_run_id": run.links.get("prefect", ""),
        }  # fmt: skip
        self._start(run.id, run_name(run, overridden_parameters(graph)), tags)
        self._put("params", params=chosen_params(graph))
        self._put("text", text=_yaml(resolved(graph)), to="config/resolved.yaml")

    def step_finished(self, node: Node, record: Record, *, hit: bool, reason: str) -> None:
        if node.task == CARRIED:  # what it took to make it was told by the run that made it
            self._put("tags", tags={f"{USED}.{node.id}": record.content})
            return
        done = self._done[node.id] = FinishedStep(node.addresses, node.round, record, hit)
        if done.trained:
            self._child(node, done)
        if record.kind == "Report" and done.headline:
            self._report(done, read_report(self._store.root / record.path), done.round or 1)

    def run_finished(self, run: Run) -> None:
        if not self._run:  # it ended before it began
            return
        steps = [self._done[id] for id in run.steps if id in self._done]
        found = run_results(self._store, steps)
        for floor in floors(steps)[:1]:
            self._report(floor, read_report(self._store.root / floor.record.path), 0)
        for row in found.others:
            game = {m: e for m, e in row.metrics.items() if m in GAME}
            self._metrics(_flat(game), row.round or self._graph.rounds or 1)
        self._best(steps)
        self._costs(steps)
        self._lineage(steps)
        figures = self._store.inside("figures", run.id)
        for file in draw_figures(found, steps, figures, run.pipeline, cache=figure_cache(self._store)):
            self._put("file", path=str(file), to="figures")
        if run.status == "failed":
            said = {s.id: s.reason for s in run.steps.values() if s.state == "failed"}
            self._put("text", text=_yaml(said), to="errors.yaml")
        self._put("end", status=STATUS.get(run.status, "FAILED"), time=milliseconds())

    def left_open(self, run: Run) -> None:
        """Kept on disk until the next replay as well, for the run that closes this one may be killed before it does."""
        op = {"op": "kill", "run": run.id, "time": milliseconds()}
        self._sink._keep([op])
        self._sink.put(op)

    # What they become

    def _put(self, op: str, *, run: str = "", **what: Any) -> None:
        self._sink.put({"op": op, "run": run or self._run, **what})

    def _start(self, name: str, title: str, tags: Mapping[str, str], parent: str = "") -> None:
        said = {name: value for name, value in tags.items() if value}
        self._put("start", run=name, title=title, tags=said, parent=parent, time=milliseconds())

    def _metrics(self, metrics: Mapping[str, float], step: int, run: str = "", **about: Any) -> None:
        self._rows([[name, value, step] for name, value in metrics.items()], run, **about)

    def _rows(self, rows: Sequence[list[Any]], run: str = "", **about: Any) -> None:
        """Metric, value and step in each row. All in one operation: each costs MLflow a transaction."""
        self._put("metrics", run=run, rows=rows, time=milliseconds(), **about)

    def _report(self, report: FinishedStep, metrics: Mapping[str, Estimate], step: int) -> None:
        """What was measured of a model: numbers of the run, and of the model on these prompts."""
        model, prompts = measured(self._store, report.record)
        if model and model.content not in self._models:
            self._model(model, self._run, f"{self._graph.pipeline} {report.name}", 0)
        about = self._dataset("held out", "evaluation", prompts) if prompts else None
        self._metrics(_flat(metrics), step, model=model.content if model else "", data=about)

    def _best(self, steps: Sequence[FinishedStep]) -> None:
        """The best round's win rate (or accuracy): the last round is what a chart ends with, and need not be it."""
        measured = [(s.round or 1, read_report(self._store.root / s.record.path)) for s in headlines(steps)]
        several = [(metrics[m].value, at, m) for at, metrics in measured if (m := main_metric(metrics))]
        if several:
            value, at, metric = max(several)
            self._metrics({f"eval/best_{metric.removeprefix('eval/')}": value}, at)

    def _costs(self, steps: Sequence[FinishedStep]) -> None:
        """What all until the end of each round cost when it was made; what stands outside the rounds counts at once."""
        outside = 0 if self._graph.rounds else 1
        rows: list[list[Any]] = []
        for at in sorted({s.round or outside for s in steps}):
            spent = costs(s for s in steps if (s.round or outside) <= at)
            rows += [[name, value, at] for name, value in spent.items()]
        hits, last = sum(s.hit for s in steps), self._graph.rounds or 1
        self._rows([*rows, ["cache/hits", hits, last], ["cache/misses", len(steps) - hits, last]])

    def _child(self, node: Node, done: FinishedStep) -> None:
        """A run for a step that trained. Its curves are the record's, whoever made it and when."""
        record, name = done.record, f"{self._run}/{node.id}"
        tags = {
            "pipeline": self._graph.pipeline, "step": node.id, "task": node.task, "cached": str(done.hit).lower(),
            "made": record.made, "commit": record.commit, "key": record.key, f"{WRITTEN}.{record.kind}": record.content,
        }  # fmt: skip
        fed = {f"{USED}.{port}": ",".join(p.content for p in several) for port, several in record.parents.items()}
        self._start(name, node.title, tags | {k: v[:TAG] for k, v in fed.items()}, parent=self._run)
        if done.hit:
            self._put("original", run=name, key=record.key)
        self._put("params", run=name, params=_step_params(node))
        rows = [[m, v, int(row["step"])] for row in record.curves for m, v in row.items() if m != "step"]
        totals = {f"total/{k}": v for k, v in record.totals.items()} | {"seconds": record.seconds}
        self._rows([*rows, *([m, v, 0] for m, v in totals.items())], run=name)
        several = ((port, p) for port, parents in record.parents.items() for p in parents)
        used = [self._dataset(port, "training", made) for port, p in several if (made := self._store.record(p.key))]
        self._put("inputs", run=name, datasets=[d for d in used if d])
        self._model(record, name, f"{self._graph.pipeline} {node.title}", node.round or 1)
        self._put("end", run=name, status="FINISHED", time=milliseconds())

    def _model(self, record: Record, run: str, title: str, step: int) -> None:
        """A model by its digest, as an output of the run of its step and of the whole."""
        self._models.add(record.content)
        tags = {
            "path": str(self._store.root / record.path), "pipeline": self._graph.pipeline, "key": record.key,
            "made": record.made, "commit": record.commit, "location": record.location,
        }  # fmt: skip
        for whose in dict.fromkeys((run, self._run)):
            self._put(
                "model", run=whose, digest=record.content, name=re.sub(r"[^A-Za-z0-9-]+", "-", title), kind=record.kind,
                step=step, tags={k: v[:TAG] for k, v in tags.items() if v}, params=_said(record.parts.get("params")),
            )  # fmt: skip

    def _lineage(self, steps: Sequence[FinishedStep]) -> None:
        """What went in (artifacts that were made from nothing) and came out (models and headline reports), by digest,
        and the way from one to the other."""
        sources = [s for s in steps if not s.record.parents]
        ended = [s for s in steps if s.record.kind in MODELS or (s.headline and s.record.kind == "Report")]
        used = [self._dataset(s.name, s.name, s.record) for s in sources]
        self._put("inputs", datasets=[d for d in used if d])
        tags = {f"{USED}.{_tag(s)}": s.record.content for s in sources}
        self._put("tags", tags=tags | {f"{WRITTEN}.{_tag(s)}": s.record.content for s in ended})
        whole = {s.addresses[0]: _made_from(s.record) | {"hit": s.hit} for s in steps}
        self._put("text", text=json.dumps(whole, indent=1), to="lineage.json")

    def _dataset(self, name: str, context: str, record: Record) -> dict[str, str] | None:
        """A table, named by the digest of its content; None for what is no table."""
        if record.rows is None:
            return None
        path = str(self._store.root / record.path)
        return {"name": f"{name} ({record.kind})", "digest": record.content[:DIGEST], "path": path, "context": context}


def run_name(run: Run, given: Mapping[str, JSON]) -> str:
    """`sppo eta=5.0 · 11-21 15:30`: the pipeline or deployment, what was asked of it, and when."""
    asked = " ".join(f"{k}={short_value(v)}" for k, v in given.items())
    when = f"{run.id[4:6]}-{run.id[6:8]} {run.id[9:11]}:{run.id[11:13]}"
    return f"{f'{run.title} {asked}'.strip()[:NAME]} · {when}"


def measured(store: Store, report: Record) -> tuple[Record | None, Record | None]:
    """The model whose numbers a Report holds, and the prompts or pairs that it was measured on, where known."""
    first = {port: store.record(several[0].key) for port, several in report.parents.items() if several}
    if answers := first.get("completions"):
        held = {port: store.record(several[0].key) for port, several in answers.parents.items() if several}
        return held.get("policy"), held.get("prompts")
    if logps := first.get("logps"):
        models = logps.parents.get("policy", ())
        return (store.record(models[0].key) if models else None), first.get("pairs")
    judge = first.get("oracle")
    return (judge if judge and judge.kind in MODELS else None), first.get("pairs")


def resolved(graph: Graph) -> dict[str, JSON]:
    """The pipeline as it ran: every parameter, and every step with all its parameters and what fed it."""
    steps: dict[str, JSON] = {
        n.id: {
            "task": n.task, "params": {name: plain_value(value) for name, value in n.params.items()},
            "execution": dict(n.execution), "inputs": {port: list(ids) for port, ids in n.inputs.items()},
        }
        for n in graph.nodes.values()
    }  # fmt: skip
    parameters: dict[str, JSON] = {n: p.value for n, p in graph.parameters.items()}
    return {
        "pipeline": graph.pipeline, "about": graph.about, "rounds": graph.rounds, "parameters": parameters,
        "steps": steps,
    }  # fmt: skip


def _tag(step: FinishedStep) -> str:
    """An address in the letters that MLflow allows: `policy:2` for `policy@2`."""
    return step.addresses[0].replace("@", ":")


def _made_from(record: Record) -> dict[str, JSON]:
    parents: dict[str, JSON] = {port: [p.content for p in several] for port, several in record.parents.items()}
    return {
        "kind": record.kind, "task": record.task, "key": record.key, "content": record.content, "parents": parents,
        "seconds": record.seconds, "made": record.made, "commit": record.commit,
    }  # fmt: skip


def _flat(metrics: Mapping[str, Estimate]) -> dict[str, float]:
    """Metric names and values; the ends of the interval of those that runs are ranked by, lest charts triple."""
    ends = {"_low": "low", "_high": "high"}
    found = {name: e.value for name, e in metrics.items()}
    found |= {f"{m}{end}": getattr(metrics[m], field) for m in MAIN if m in metrics for end, field in ends.items()}
    return {name: value for name, value in found.items() if value is not None and not math.isnan(value)}


def _step_params(node: Node) -> dict[str, str]:
    return _said({name: plain_value(value) for name, value in node.params.items()})


def _said(params: JSON) -> dict[str, str]:
    """A step's parameters as MLflow compares them; a choice is its name, its own parameters follow."""
    told: dict[str, str] = {}
    for name, value in params.items() if isinstance(params, dict) else ():
        if isinstance(value, dict) and isinstance(value.get("choice"), str):
            told[name] = str(value["choice"]).rpartition("/")[2]
            own = value.get("params")
            told |= {f"{name}.{k}": json.dumps(v) for k, v in own.items()} if isinstance(own, dict) else {}
        elif value is not None:
            told[name] = value if isinstance(value, str) else json.dumps(value)
    return dict(list(told.items())[:MAX_PARAMS])


def _yaml(data: object) -> str:
    from ruamel.yaml import YAML

    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(data, stream)
    return stream.getvalue()
