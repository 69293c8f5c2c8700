"""MLflow goes away while a run is on, or hangs: the run goes on, and all of it arrives with the next run, once."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.reporting.sinks.mlflow_sink import EXPERIMENT, is_refusal
from flows.reporting.sinks.pending import PendingRuns
from flows.reporting.tracker import Tracker
from flows.store.runs import Runs
from tests.flows.fabricated import Fabricated, fabricate


class Server:
    """`mlflow server` on a port and a database of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}",
            "--artifacts-destination", str(self._folder / "files"), "--port", str(self.port), "--workers", "1",
        ]  # fmt: skip
        place = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        place.pop("MLFLOW_TRACKING_URI", None)
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=place, stdout=log, stderr=log, start_new_session=True)
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return
            time.sleep(0.1)
        raise AssertionError((self._folder / "server.log").read_text())

    def signal(self, number: int) -> None:
        assert self._process
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self._process.wait()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests, whose runs have ids of their own."""
    server = Server(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.kill()


@pytest.fixture
def server(kept: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", kept.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    if not kept.alive:
        kept.start()
    return kept


def _pending(made: Fabricated) -> list[str]:
    return PendingRuns(made.store, "mlflow").ids()


def _begin(made: Fabricated) -> Tracker:
    tracker = Tracker(made.store)
    tracker.run_started(made.run, made.graph, made.store.root / "logs" / made.run.id)
    return tracker


def _finish(tracker: Tracker, made: Fabricated, ids: list[str]) -> None:
    for id in ids:
        tracker.step_finished(made.graph.nodes[id], made.records[id], hit=False, reason="")


def _delivered(tracker: Tracker) -> None:
    """Wait until nothing is on its way."""
    done = threading.Event()
    tracker.deliveries[0].put(lambda _: done.set())
    assert done.wait(60)


def _whole(made: Fabricated, name: str) -> Fabricated:
    """The same run under another id, published in one go."""
    other = made._replace(run=replace(made.run, id=f"{made.run.id}-{name}", links={}, extra={}))
    tracker = _begin(other)
    _finish(tracker, other, list(made.graph.nodes))
    tracker.run_finished(other.run)
    assert tracker.close() == ""
    return other


def _seen(uri: str, run: str) -> dict[str, Any]:
    """All that MLflow knows of a run of ours, by name: what would differ if anything were lost or doubled."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    found: dict[str, Any] = {}
    for r in client.search_runs([experiment], f"tags.`alignflow.name` LIKE '{run}%'"):
        name = r.data.tags["alignflow.name"].removeprefix(run)
        assert name not in found, "started twice"
        history = {m: [(h.step, h.value) for h in client.get_metric_history(r.info.run_id, m)] for m in r.data.metrics}
        found[name] = (
            r.info.status, {m: sorted(h) for m, h in history.items()}, r.data.params,
            len(r.inputs.dataset_inputs), len(r.outputs.model_outputs),
            sorted(f.path for f in client.list_artifacts(r.info.run_id)),
        )  # fmt: skip
    models = client.search_logged_models([experiment])
    found["models"] = sorted(m.tags["digest"] for m in models)
    return found


def test_a_server_that_dies_in_mid_run_loses_and_doubles_nothing(tmp_path: Path, server: Server) -> None:
    made = fabricate(tmp_path, rounds=1)
    whole = _whole(made, "whole")
    ids = list(made.graph.nodes)
    tracker = _begin(made)
    _finish(tracker, made, ids[: len(ids) // 2])
    _delivered(tracker)
    server.kill()
    _finish(tracker, made, ids[len(ids) // 2 :])
    tracker.run_finished(made.run)
    assert "cannot be reached" in tracker.close()
    assert _pending(made) == [made.run.id]
    Runs(made.store).save(made.run)
    server.start()
    _whole(made, "later")
    assert _pending(made) == []
    expected = _seen(server.uri, whole.run.id)
    assert {name: r for name, r in _seen(server.uri, made.run.id).items() if "-" not in name} == expected
    assert expected[""][0] == "FINISHED"
    assert Runs(made.store).load(made.run.id).links["mlflow"]


def test_a_server_that_hangs_delays_the_end_by_no_more_than_was_allowed(tmp_path: Path, server: Server) -> None:
    made = fabricate(tmp_path, rounds=1)
    tracker = _begin(made)
    _delivered(tracker)
    server.signal(signal.SIGSTOP)
    _finish(tracker, made, list(made.graph.nodes))
    tracker.run_finished(made.run)
    start = time.monotonic()
    assert "did not take everything" in tracker.close(1.0)
    assert time.monotonic() - start < 5
    Runs(made.store).save(made.run)
    server.signal(signal.SIGCONT)
    tracker.deliveries[0]._thread.join(60)  # what was on its way arrives after all, and is published again as well
    _whole(made, "later")
    seen = _seen(server.uri, made.run.id)
    assert seen[""][0] == "FINISHED"
    assert seen[""][1]["eval/win_rate"] == [(0, 0.49), (1, 0.62)]
    assert seen["/policy@1"][4] == 1
    assert len(seen["/base"][1]["train/loss"]) == 40


def test_silence_is_no_refusal() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

    assert is_refusal(MlflowException("no such metric", INVALID_PARAMETER_VALUE))
    assert not is_refusal(MlflowException("database is locked", TEMPORARILY_UNAVAILABLE))
    assert not is_refusal(MlflowException("API request failed"))
    assert not is_refusal(ConnectionResetError())
