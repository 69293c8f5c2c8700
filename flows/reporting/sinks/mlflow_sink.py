"""Writes runs to MLflow under our own names, so that writing anything again changes nothing.

MlflowClient and explicit run ids only: the active run of `mlflow` is thread-local.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flows.python.declared import Declarations
from flows.reporting.sinks import mlflow_registry as registry
from flows.reporting.sinks import mlflow_view as view
from flows.reporting.sinks.mlflow_database import database_of, make_ready, quiet
from flows.reporting.sinks.tracking import MetricRow, short_error
from flows.run.prefect.server import pages
from flows.system.environment import without_password
from flows.system.locks import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient

Method = TypeVar("Method", bound=Callable[..., None])
EXPERIMENT = "alignflow"
TRAINING_PAGES = {"mlflow.experimentKind": "custom_model_development"}
"""Lets MLflow show runs as trainings and not as conversations."""
NOTE = "mlflow.note.content"
"""Tag with the description of a run or an experiment."""
NAME_TAG = "alignflow.name"
"""Tag with our name of a run; unique for an artifacts folder."""
METRICS_PER_CALL = 1000


def tracking_uri(artifacts: Path) -> str:
    """Where runs are tracked: MLFLOW_TRACKING_URI, or SQLite below `artifacts`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database_of(artifacts)}"


def served_elsewhere(artifacts: Path) -> bool:
    """Whether runs are tracked by a server, which has pages of its own; else `alignflow up` serves them."""
    return tracking_uri(artifacts).startswith(("http:", "https:", "databricks"))


def address(artifacts: Path) -> str:
    """The address of MLflow's pages: that of the server in MLFLOW_TRACKING_URI, or of `alignflow up`."""
    return without_password(tracking_uri(artifacts)).rstrip("/") if served_elsewhere(artifacts) else pages(artifacts)[1]


def _write(method: Method) -> Method:
    """Decorates a method that writes: what the server refuses is left out and noted, as sending it again is useless."""

    @wraps(method)
    def write(self: MlflowServer, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as e:
            if not is_refusal(e):
                raise
            self.refusal = f"MLflow refused some of what was logged ({short_error(e)})"

    return cast(Method, write)


class MlflowServer:
    """One tracking server. Its methods raise MLflow's own errors if the server does not answer."""

    def __init__(self, artifacts: Path, uri: str) -> None:
        """Opens the database, or makes a new one."""
        self._artifacts = artifacts.absolute()
        self._ids: dict[str, str] = {}
        self._models: dict[str, str] = {}
        self.refusal = ""
        """The last refusal of the server, if there was any."""
        quiet()
        self.damage = make_ready(artifacts)
        """A message about a database that was damaged."""
        self._client = _client(uri)
        with locked(self._artifacts / "locks" / "mlflow.lock"):
            self._experiment = self._find_experiment(uri)

    def _find_experiment(self, uri: str) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found:
            id, tags = str(found.experiment_id), found.tags
        else:
            local = (self._artifacts / "mlruns").as_uri() if uri.startswith("sqlite:") else None
            id, tags = self._client.create_experiment(EXPERIMENT, local, TRAINING_PAGES), {}
        wanted = {view.TAG: view.view(Declarations())}
        if tags.get(NOTE, view.NOTE_BEGINS).startswith(view.NOTE_BEGINS):  # else somebody wrote a note of their own
            wanted[NOTE] = view.note(id)
        for tag, value in wanted.items():
            if tags.get(tag) != value:
                self._client.set_experiment_tag(id, tag, value)
        return id

    def answers(self) -> bool:
        """Whether the server answers at all."""
        try:
            self._client.get_experiment(self._experiment)
        except Exception:
            return False
        return True

    def run_id(self, name: str) -> str:
        """MLflow's id of the run of this name. Raises KeyError if it was never started."""
        if not self._knows(name):
            raise KeyError(f"no MLflow run was started for {name}")
        return self._ids[name]

    def _knows(self, name: str) -> bool:
        if name not in self._ids:
            found = self._client.search_runs([self._experiment], f"tags.`{NAME_TAG}` = '{name}'", max_results=1)
            self._ids.update((name, run.info.run_id) for run in found)
        return name in self._ids

    def link(self, name: str) -> str:
        """EXPERIMENT/RUN of a run; empty for one that was not started here."""
        return f"{self._experiment}/{self._ids[name]}" if name in self._ids else ""

    @_write
    def start(
        self, name: str, title: str, tags: Mapping[str, str], at: int, parent: str = "", about: str = ""
    ) -> None:  # fmt: skip
        if self._knows(name):
            return
        tags = {NAME_TAG: name, **{tag: value for tag, value in {**tags, NOTE: about}.items() if value}}
        if parent:
            tags["mlflow.parentRunId"] = self.run_id(parent)
        made = self._client.create_run(self._experiment, start_time=at, tags=tags, run_name=title)
        self._ids[name] = made.info.run_id

    @_write
    def params(self, name: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(self.run_id(name), params=[Param(k, v) for k, v in params.items()])

    @_write
    def tags(self, name: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id(name), tags=[RunTag(k, v) for k, v in tags.items()])

    @_write
    def metrics(
        self, name: str, rows: Sequence[MetricRow], at: int, model: str = "",
        data: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """All in one call: each costs MLflow a transaction."""
        from mlflow.entities import Metric

        run, of = self.run_id(name), self._model_id(model) if model else None
        about = (data["name"], data["digest"]) if data else (None, None)
        for i in range(0, len(rows), METRICS_PER_CALL):
            part = rows[i : i + METRICS_PER_CALL]
            some = [Metric(allowed_name(m), value, at, step, of, *about) for m, value, step in part]
            self._client.log_batch(run, metrics=some)

    @_write
    def inputs(self, name: str, datasets: Sequence[Mapping[str, str]]) -> None:
        """Datasets by digest, as `mlflow.data.MetaDataset` makes them (which takes a second to import)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for d in datasets:
            data = Dataset(d["name"], d["digest"], source_type="local", source=json.dumps({"uri": d["path"]}))
            inputs.append(DatasetInput(data, [InputTag("mlflow.data.context", d["context"])]))
        self._client.log_inputs(self.run_id(name), inputs)

    @_write
    def model(
        self, name: str, digest: str, title: str, kind: str, step: int, tags: Mapping[str, str],
        params: Mapping[str, str],
    ) -> None:  # fmt: skip
        """Register a checkpoint outside MLflow, one for each content; no file is copied.

        Follows `mlflow.create_external_model`, which works on the active run alone.
        """
        from mlflow.entities import LoggedModelOutput

        run = self.run_id(name)
        model = self._model_id(digest) or self._new_model(run, digest, title, kind, tags, params)
        known = self._client.get_run(run).outputs.model_outputs
        if model not in {output.model_id for output in known}:
            self._client.log_outputs(run, [LoggedModelOutput(model, step)])

    def _new_model(
        self, run: str, digest: str, title: str, kind: str, tags: Mapping[str, str], params: Mapping[str, str]
    ) -> str:
        from tempfile import TemporaryDirectory

        from mlflow.models.utils import get_external_mlflow_model_spec
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

        tags = {**tags, "digest": digest, MLFLOW_MODEL_IS_EXTERNAL: "true"}
        made = self._client.create_logged_model(self._experiment, title, run, tags, dict(params), kind)
        with TemporaryDirectory() as folder:
            get_external_mlflow_model_spec(made).save(str(Path(folder) / "MLmodel"))
            self._client.log_model_artifacts(made.model_id, folder)
        self._client.finalize_logged_model(made.model_id, "READY")
        self._models[digest] = made.model_id
        return str(made.model_id)

    def _model_id(self, digest: str) -> str | None:
        """MLflow's id of the model of a content; None if it has none."""
        if digest not in self._models:
            found = self._client.search_logged_models([self._experiment], f"tags.digest = '{digest}'")
            self._models.update((digest, model.model_id) for model in found if model.status == "READY")
        return self._models.get(digest)

    @_write
    def register(self, name: str, family: str, digest: str) -> None:
        if model := self._model_id(digest):
            registry.register_version(self._client, family, digest, model)

    @_write
    def promote(self, family: str, digest: str) -> None:
        if digest:
            self.register("", family, digest)
        registry.promote_version(self._client, family, digest)

    @_write
    def original(self, name: str, key: str) -> None:
        """Tag a run of a cached step with the run in which the step was computed, and link it in the description."""
        made = f"tags.key = '{key}' and tags.cached = 'false'"
        run = self.run_id(name)
        for first in self._client.search_runs([self._experiment], made, max_results=1):
            id = first.info.run_id
            link = f"Cached: made by [{first.info.run_name}]({view.run_page(f'{self._experiment}/{id}')})"
            self._client.set_tag(run, "original_run", id)
            self._client.set_tag(run, NOTE, link)

    @_write
    def text(self, name: str, text: str, to: str) -> None:
        self._client.log_text(self.run_id(name), text, to)

    @_write
    def files(self, name: str, files: Sequence[Path], to: str) -> None:
        for file in files:
            self._client.log_artifact(self.run_id(name), str(file), to)

    @_write
    def end(self, name: str, status: str, at: int) -> None:
        self._client.set_terminated(self.run_id(name), status, at)


def is_refusal(e: Exception) -> bool:
    """Whether the server rejected a request, so that sending it again is useless. A timeout, a gateway's error or a
    locked database do not count."""
    from mlflow.exceptions import MlflowException

    if isinstance(e, KeyError | FileNotFoundError):
        return True
    if not isinstance(e, MlflowException):
        return False
    status = e.get_http_status_code()
    return 400 <= status < 500 and status not in (408, 429)


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def allowed_name(metric: str) -> str:
    """A metric's name with `_` for the characters that MLflow refuses."""
    return re.sub(r"[^/\w.\- :]", "_", metric)
