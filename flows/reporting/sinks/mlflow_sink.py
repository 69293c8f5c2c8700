"""Delivers operations to MLflow from a thread of its own, so that MLflow never slows or fails a run.

An operation is a plain mapping: `start`, `metrics`, `tags`, `params`, `inputs`, `model`, `text`, `file`, `end`, each
with the name of the MLflow run that it is for. What cannot be delivered is kept in `artifacts/mlflow-pending.jsonl`,
and the next run delivers it first. Whoever cannot know whether an operation arrived keeps it too: a second delivery
changes nothing. MlflowClient and explicit run ids only: the active run of `mlflow` is thread-local.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.reporting.sinks import mlflow_view as view
from flows.reporting.sinks.mlflow_database import database_of, make_ready, quiet
from flows.run.environment import without_password
from flows.run.prefect.server import pages
from flows.store.locks import locked
from tasks.files import replacing

if TYPE_CHECKING:
    from mlflow import MlflowClient

Op = Mapping[str, Any]
EXPERIMENT = "alignflow"
TRAINING_PAGES = {"mlflow.experimentKind": "custom_model_development"}
"""Lets MLflow show runs as trainings and not as conversations."""
NOTE = "mlflow.note.content"
"""Tag with the description of a run or an experiment."""
NAME_TAG = "alignflow.name"
"""Tag with the name by which operations call a run; unique for an artifacts folder."""
METRICS_PER_CALL = 1000
KEPT = "what is missing there is kept and sent by the next run"
PENDING = "mlflow-pending.jsonl"


def tracking_uri(artifacts: Path) -> str:
    """Where runs are tracked: MLFLOW_TRACKING_URI, or SQLite below `artifacts`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database_of(artifacts)}"


def served_elsewhere(artifacts: Path) -> bool:
    """Whether runs are tracked by a server, which has pages of its own; else `alignflow up` serves them."""
    return tracking_uri(artifacts).startswith(("http:", "https:", "databricks"))


def address(artifacts: Path) -> str:
    """Where MLflow's pages are: those of a server that was named, or those that `alignflow up` serves."""
    return without_password(tracking_uri(artifacts)).rstrip("/") if served_elsewhere(artifacts) else pages(artifacts)[1]


class Sink:
    """A queue of operations and the thread that applies them in order. `put` returns at once."""

    def __init__(self, artifacts: Path) -> None:
        self.uri = tracking_uri(artifacts)
        self.trouble = ""
        """Why operations were kept back, if any were, or what else went wrong."""
        self._artifacts = artifacts
        self._queue: queue.Queue[Op | None] = queue.Queue()
        self._gone = threading.Event()
        self._at_work: Op | None = None
        self._delivery: Delivery | None = None
        self._unreachable = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def put(self, op: Op) -> None:
        self._queue.put(op)

    def close(self, seconds: float = 60.0) -> str:
        """Wait until all is delivered, at most `seconds`, and keep the rest. Returns what went wrong, or nothing."""
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._gone.set()
            self.trouble = (
                f"MLflow at {without_password(self.uri)} did not take everything within {seconds:.0f} s; {KEPT}"
            )
            at_work = self._at_work
            self._keep([*([at_work] if at_work else []), *self._waiting()])
        return self.trouble

    def link(self, name: str) -> str:
        """EXPERIMENT/RUN of a run; empty for one that is not there."""
        return self._delivery.link(name) if self._delivery else ""

    def _work(self) -> None:
        while (op := self._queue.get()) is not None:
            self._at_work = op
            if self._unreachable or self._gone.is_set():
                self._keep([op])
            else:
                self._deliver(op)
            self._at_work = None

    def _deliver(self, op: Op) -> None:
        """Apply one operation; drop it if the server says no to it, keep it and all that follow if it says nothing."""
        try:
            if self._delivery is None:
                self._delivery = Delivery(self._artifacts, self.uri)
                self.trouble = self._delivery.damage
                self._delivery.replay()
            self._delivery.apply(op)
        except Exception as e:
            if self._gone.is_set():  # `close` gave up on this one and kept it
                return
            if self._delivery is not None and refused(e):
                self.trouble = f"MLflow refused some of what was logged ({_short(e)})"
                return
            self._unreachable = True
            self.trouble = f"MLflow at {without_password(self.uri)} cannot be reached ({_short(e)}); {KEPT}"
            self._keep([op])

    def _waiting(self) -> Iterator[Op]:
        with suppress(queue.Empty):
            while True:
                op = self._queue.get_nowait()
                if op is not None:
                    yield op

    def _keep(self, ops: list[Op]) -> None:
        try:
            with _pending_lock(self._artifacts), (self._artifacts / PENDING).open("a") as file:
                file.writelines(json.dumps(op) + "\n" for op in ops)
        except OSError as e:
            self.trouble = (
                f"MLflow at {without_password(self.uri)} did not take everything, and the rest is lost ({e.strerror})"
            )


class Delivery:
    """Applies operations to one tracking server. Raises whatever MLflow raises."""

    def __init__(self, artifacts: Path, uri: str) -> None:
        """Opens the database, a new one if it has to be made."""
        self._artifacts = artifacts.absolute()
        self._ids: dict[str, str] = {}
        self._models: dict[str, str] = {}
        self._again = False
        quiet()
        self.damage = make_ready(artifacts)
        """What became of a damaged database, if it was one."""
        self.client = _client(uri)
        with locked(self._artifacts / "locks" / "mlflow.lock"):
            self._experiment = self._find_experiment(uri)

    def _find_experiment(self, uri: str) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found:
            id, tags = str(found.experiment_id), found.tags
        else:
            local = (self._artifacts / "mlruns").as_uri() if uri.startswith("sqlite:") else None
            id, tags = self.client.create_experiment(EXPERIMENT, local, TRAINING_PAGES), {}
        wanted = {view.TAG: view.view()}
        if tags.get(NOTE, view.NOTE_BEGINS).startswith(view.NOTE_BEGINS):  # else somebody wrote a note of their own
            wanted[NOTE] = view.note(id)
        for tag, value in wanted.items():
            if tags.get(tag) != value:
                self.client.set_experiment_tag(id, tag, value)
        return id

    def reachable(self) -> bool:
        """Whether the server answers at all."""
        try:
            self.client.get_experiment(self._experiment)
        except Exception:
            return False
        return True

    def replay(self) -> None:
        """Deliver what earlier runs could not; what the server refuses although it answers is dropped."""
        self._again = True
        with _pending_lock(self._artifacts):
            pending = self._artifacts / PENDING
            lines = pending.read_text().splitlines() if pending.exists() else []
            for number, line in enumerate(lines):
                try:
                    self._persist(json.loads(line))
                except Exception as e:
                    if not refused(e) and not self.reachable():
                        with replacing(pending) as fresh:
                            fresh.write_text("".join(f"{rest}\n" for rest in lines[number:]))
                        raise
            pending.unlink(missing_ok=True)
        self._again = False

    def _persist(self, op: Op) -> None:
        """Apply an operation; three times if the server is there but fails for no reason of ours."""
        for _ in range(2):
            try:
                self.apply(op)
                return
            except Exception as e:
                if refused(e) or not self.reachable():
                    raise
                time.sleep(0.5)
        self.apply(op)

    def apply(self, op: Op) -> None:
        apply: Callable[[Op], None] = getattr(self, f"_{op['op']}")
        apply(op)

    def run_id(self, name: str) -> str:
        """MLflow's id of the run that operations call `name`. Raises KeyError if it was never started."""
        if not self._knows(name):
            raise KeyError(f"no MLflow run was started for {name}")
        return self._ids[name]

    def _knows(self, name: str) -> bool:
        if name not in self._ids:
            found = self.client.search_runs([self._experiment], f"tags.`{NAME_TAG}` = '{name}'", max_results=1)
            self._ids.update((name, run.info.run_id) for run in found)
        return name in self._ids

    def link(self, name: str) -> str:
        """EXPERIMENT/RUN of a run; empty for one that was not started here."""
        return f"{self._experiment}/{self._ids[name]}" if name in self._ids else ""

    def _start(self, op: Op) -> None:
        if self._again and self._knows(op["run"]):
            return
        tags = {NAME_TAG: op["run"], **op["tags"]}
        if op.get("parent"):
            tags["mlflow.parentRunId"] = self.run_id(op["parent"])
        made = self.client.create_run(self._experiment, start_time=op["time"], tags=tags, run_name=op["title"])
        self._ids[op["run"]] = made.info.run_id

    def _params(self, op: Op) -> None:
        from mlflow.entities import Param

        self.client.log_batch(self.run_id(op["run"]), params=[Param(k, v) for k, v in op["params"].items()])

    def _tags(self, op: Op) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id(op["run"]), tags=[RunTag(k, v) for k, v in op["tags"].items()])

    def _metrics(self, op: Op) -> None:
        from mlflow.entities import Metric

        run, rows = self.run_id(op["run"]), op["rows"]
        model = self._model_id(op["model"]) if op.get("model") else None
        data = op.get("data") or {}
        for i in range(0, len(rows), METRICS_PER_CALL):
            some = [
                Metric(name, value, op["time"], step, model, data.get("name"), data.get("digest"))
                for name, value, step in rows[i : i + METRICS_PER_CALL]
            ]
            self.client.log_batch(run, metrics=some)

    def _inputs(self, op: Op) -> None:
        """Datasets by digest, as `mlflow.data.MetaDataset` makes them (which takes a second to import)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for d in op["datasets"]:
            data = Dataset(d["name"], d["digest"], source_type="local", source=json.dumps({"uri": d["path"]}))
            inputs.append(DatasetInput(data, [InputTag("mlflow.data.context", d["context"])]))
        self.client.log_inputs(self.run_id(op["run"]), inputs)

    def _model(self, op: Op) -> None:
        """A checkpoint outside MLflow, one for each content however many runs made or found it: no file is copied.

        As `mlflow.create_external_model` does it, which works on the active run alone.
        """
        from mlflow.entities import LoggedModelOutput

        digest, run = op["digest"], self.run_id(op["run"])
        model = self._model_id(digest) or self._new_model(op, run)
        known = self.client.get_run(run).outputs.model_outputs
        if model not in {output.model_id for output in known}:
            self.client.log_outputs(run, [LoggedModelOutput(model, op["step"])])

    def _new_model(self, op: Op, run: str) -> str:
        from tempfile import TemporaryDirectory

        from mlflow.models.utils import get_external_mlflow_model_spec
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

        tags = {**op["tags"], "digest": op["digest"], MLFLOW_MODEL_IS_EXTERNAL: "true"}
        made = self.client.create_logged_model(self._experiment, op["name"], run, tags, op["params"], op["kind"])
        with TemporaryDirectory() as folder:
            get_external_mlflow_model_spec(made).save(str(Path(folder) / "MLmodel"))
            self.client.log_model_artifacts(made.model_id, folder)
        self.client.finalize_logged_model(made.model_id, "READY")
        self._models[op["digest"]] = made.model_id
        return str(made.model_id)

    def _model_id(self, digest: str) -> str | None:
        """MLflow's id of the model of a content; None if it has not heard of it."""
        if digest not in self._models:
            found = self.client.search_logged_models([self._experiment], f"tags.digest = '{digest}'")
            self._models.update((digest, model.model_id) for model in found if model.status == "READY")
        return self._models.get(digest)

    def _original(self, op: Op) -> None:
        """Tag a run of a cached step with the run in which the step was computed, and link it in the description."""
        made = f"tags.key = '{op['key']}' and tags.cached = 'false'"
        run = self.run_id(op["run"])
        for first in self.client.search_runs([self._experiment], made, max_results=1):
            id = first.info.run_id
            link = f"Cached: made by [{first.info.run_name}]({view.run_page(f'{self._experiment}/{id}')})"
            self.client.set_tag(run, "original_run", id)
            self.client.set_tag(run, NOTE, link)

    def _text(self, op: Op) -> None:
        self.client.log_text(self.run_id(op["run"]), op["text"], op["to"])

    def _file(self, op: Op) -> None:
        if Path(op["path"]).exists():
            self.client.log_artifact(self.run_id(op["run"]), op["path"], op["to"])

    def _end(self, op: Op) -> None:
        self.client.set_terminated(self.run_id(op["run"]), op["status"], op["time"])

    def _kill(self, op: Op) -> None:
        """End a run whose process was killed, and its children, unless they ended by themselves."""
        for names in (f"= '{op['run']}'", f"LIKE '{op['run']}/%'"):
            running = f"tags.`{NAME_TAG}` {names} and attributes.status = 'RUNNING'"
            for run in self.client.search_runs([self._experiment], running):
                self.client.set_terminated(run.info.run_id, "KILLED", op["time"])


def refused(e: Exception) -> bool:
    """Whether the server said no to what it was sent, so that sending it again cannot help. Silence, a gateway's error
    or a locked database are no refusal."""
    from mlflow.exceptions import MlflowException

    if isinstance(e, KeyError | FileNotFoundError):
        return True
    if not isinstance(e, MlflowException):
        return False
    status = e.get_http_status_code()
    return 400 <= status < 500 and status not in (408, 429)


def milliseconds() -> int:
    """Now, as MLflow counts time."""
    return int(time.time() * 1000)


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _pending_lock(artifacts: Path) -> AbstractContextManager[None]:
    return locked(artifacts / "locks" / "mlflow-pending.lock")


def _short(e: Exception) -> str:
    return f"{type(e).__name__}: {without_password(str(e)).splitlines()[0][:200] if str(e) else ''}"
