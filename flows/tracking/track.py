"""A run in MLflow: a parent run per pipeline run, metrics per round as steps, a child per step that trained, lineage.

Everything is read from records, so a cached step is as complete as a fresh one. The names of metrics are equal for all
pipelines; step = round, and 0 is base against base.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.execution.listen import Listener
from flows.store.keys import plain
from flows.store.lineage import MODELS
from flows.store.records import Record
from flows.store.runs import Run
from flows.store.store import Store
from flows.tracking.figures import draw
from flows.tracking.mlflow_sink import Sink, milliseconds
from flows.tracking.table import Done, Estimate, costs, read_report, results
from flows.wiring.model import ChoiceValue, Graph, Node
from tasks.contract import JSON

MAX_PARAMS = 15
"""More make MLflow's comparison unreadable; the whole configuration is an artifact."""
DIGEST = 32
"""Letters of a dataset's digest; MLflow refuses more than 36."""
TAG = 5000
"""Letters of a tag; MLflow cuts at 8,000."""
STATUS = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class Tracker(Listener):
    """Tells MLflow of a run, and draws its figures. `close` after the run waits for the rest to be delivered."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sink = Sink(store.root)
        self._done: dict[str, Done] = {}
        self._run = ""
        self._graph: Graph
        self.drawn: list[Path] = []
        """Figures of the run, once it has finished."""

    @property
    def uri(self) -> str:
        """Where the run is tracked."""
        return self._sink.uri

    @property
    def page(self) -> str:
        """The run's page below the address of `mlflow ui`; empty if MLflow has not heard of it."""
        return self._sink.page(self._run)

    def close(self, seconds: float = 60.0) -> str:
        """Wait for MLflow, at most `seconds`. Returns what went wrong, or nothing; the next run tries again."""
        return self._sink.close(seconds)

    # Events

    def run_started(self, run: Run, graph: Graph, logs: Path) -> None:
        self._run, self._graph = run.id, graph
        tags = {
            "alignflow.run": run.id, "pipeline": graph.pipeline, "deployment": run.deployment,
            "mlflow.note.content": graph.about, "prefect.flow_run_id": run.links.get("prefect", ""),
        }  # fmt: skip
        self._start(run.id, f"{graph.pipeline} {run.id[4:6]}-{run.id[6:8]} {run.id[9:11]}:{run.id[11:13]}", tags)
        self._put("params", params=chosen_params(graph))
        self._put("text", text=_yaml(resolved(graph)), to="config/resolved.yaml")

    def step_finished(self, node: Node, record: Record, *, hit: bool, reason: str) -> None:
        done = self._done[node.id] = Done(node.addresses, node.round, record, hit)
        if record.kind == "Report" and done.headline:
            self._metrics(_flat(read_report(self._store.root / record.path)), done.round or 1)
        if done.trained:
            self._child(node, done)

    def run_finished(self, run: Run) -> None:
        if not self._run:  # it ended before it began
            return
        steps = [self._done[id] for id in run.steps if id in self._done]
        found = results(self._store, steps)
        if found.floor:
            self._metrics(_flat(found.floor.metrics), 0)
        self._costs(steps)
        self._lineage(steps)
        self.drawn = draw(found, steps, self._store.inside("figures", run.id), run.pipeline)
        for file in self.drawn:
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

    def _metrics(self, metrics: Mapping[str, float], step: int, run: str = "") -> None:
        rows = [[name, value, step] for name, value in metrics.items()]
        self._put("metrics", run=run, rows=rows, time=milliseconds())

    def _costs(self, steps: Sequence[Done]) -> None:
        """What each round cost when it was made; what stands outside the rounds counts at step 0."""
        outside = 0 if self._graph.rounds else 1
        for at in sorted({s.round or outside for s in steps}):
            self._metrics(costs(s for s in steps if (s.round or outside) == at), at)
        hits = sum(s.hit for s in steps)
        self._metrics({"cache/hits": hits, "cache/misses": len(steps) - hits}, self._graph.rounds or 1)

    def _child(self, node: Node, done: Done) -> None:
        """A run for a step that trained. Its curves are the record's, whoever made it and when."""
        record, name = done.record, f"{self._run}/{node.id}"
        tags = {
            "step": node.id, "task": node.task, "key": record.key, "cached": str(done.hit).lower(), "made": record.made,
            f"out.{record.kind}": record.content, "commit": record.commit, "pipeline": self._graph.pipeline,
        }  # fmt: skip
        fed = {f"in.{port}": ",".join(p.content for p in several) for port, several in record.parents.items()}
        self._start(name, node.title, tags | {k: v[:TAG] for k, v in fed.items()}, parent=self._run)
        if done.hit:
            self._put("original", run=name, key=record.key)
        self._put("params", run=name, params=_step_params(node))
        rows = [[m, v, int(row["step"])] for row in record.curves for m, v in row.items() if m != "step"]
        self._put("metrics", run=name, rows=rows, time=milliseconds())
        self._metrics({f"total/{k}": v for k, v in record.totals.items()} | {"seconds": record.seconds}, 0, run=name)
        several = ((port, p) for port, parents in record.parents.items() for p in parents)
        used = [self._dataset(port, "training", made) for port, p in several if (made := self._store.record(p.key))]
        self._put("inputs", run=name, datasets=[d for d in used if d])
        self._put("end", run=name, status="FINISHED", time=milliseconds())

    def _lineage(self, steps: Sequence[Done]) -> None:
        """What went in (artifacts that were made from nothing) and came out (models and headline reports), by digest,
        and the way from one to the other."""
        sources = [s for s in steps if not s.record.parents]
        ended = [s for s in steps if s.record.kind in MODELS or (s.headline and s.record.kind == "Report")]
        used = [self._dataset(s.name, s.name, s.record) for s in sources]
        self._put("inputs", datasets=[d for d in used if d])
        tags = {f"in.{_tag(s)}": s.record.content for s in sources}
        self._put("tags", tags=tags | {f"out.{_tag(s)}": s.record.content for s in ended})
        whole = {s.addresses[0]: _made_from(s.record) | {"hit": s.hit} for s in steps}
        self._put("text", text=json.dumps(whole, indent=1), to="lineage.json")

    def _dataset(self, name: str, context: str, record: Record) -> dict[str, str] | None:
        """A table, named by the digest of its content; None for what is no table."""
        if record.rows is None:
            return None
        path = str(self._store.root / record.path)
        return {"name": f"{name} ({record.kind})", "digest": record.content[:DIGEST], "path": path, "context": context}


def chosen_params(graph: Graph) -> dict[str, str]:
    """The parameters by which runs are compared: at most `MAX_PARAMS`, none that only says how a step runs."""
    keyed = {n: p.value for n, p in graph.parameters.items() if not p.annotation.startswith("Execution[")}
    first = {"pipeline": graph.pipeline, **({"rounds": graph.rounds} if graph.rounds else {})}
    chosen = {**first, **keyed}
    said = [(n, v if isinstance(v, str) else json.dumps(v)) for n, v in chosen.items() if v is not None]
    return dict(said[:MAX_PARAMS])


def resolved(graph: Graph) -> dict[str, JSON]:
    """The pipeline as it ran: every parameter, and every step with all its parameters and what fed it."""
    steps: dict[str, JSON] = {
        n.id: {
            "task": n.task, "params": {name: plain(value) for name, value in n.params.items()},
            "execution": dict(n.execution), "inputs": {port: list(ids) for port, ids in n.inputs.items()},
        }
        for n in graph.nodes.values()
    }  # fmt: skip
    parameters: dict[str, JSON] = {n: p.value for n, p in graph.parameters.items()}
    return {
        "pipeline": graph.pipeline, "about": graph.about, "rounds": graph.rounds, "parameters": parameters,
        "steps": steps,
    }  # fmt: skip


def _tag(step: Done) -> str:
    """An address in the letters that MLflow allows: `policy:2` for `policy@2`."""
    return step.addresses[0].replace("@", ":")


def _made_from(record: Record) -> dict[str, JSON]:
    parents: dict[str, JSON] = {port: [p.content for p in several] for port, several in record.parents.items()}
    return {
        "kind": record.kind, "task": record.task, "key": record.key, "content": record.content, "parents": parents,
        "seconds": record.seconds, "made": record.made, "commit": record.commit,
    }  # fmt: skip


def _flat(metrics: Mapping[str, Estimate]) -> dict[str, float]:
    """Metric names and values, with the ends of the interval of those that have one."""
    ends = (("", "value"), ("_low", "low"), ("_high", "high"))
    found = {f"{name}{end}": getattr(e, field) for name, e in metrics.items() for end, field in ends}
    return {name: value for name, value in found.items() if value is not None and not math.isnan(value)}


def _step_params(node: Node) -> dict[str, str]:
    """A step's parameters as MLflow compares them; a choice is its name, its own parameters follow."""
    said: dict[str, str] = {}
    for name, value in node.params.items():
        if isinstance(value, ChoiceValue):
            said[name] = value.name
            said |= {f"{name}.{k}": json.dumps(v) for k, v in value.params.items()}
        elif value is not None:
            said[name] = value if isinstance(value, str) else json.dumps(plain(value))
    return dict(list(said.items())[:MAX_PARAMS])


def _yaml(data: object) -> str:
    from ruamel.yaml import YAML

    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(data, stream)
    return stream.getvalue()
