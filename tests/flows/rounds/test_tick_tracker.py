"""Ticks in MLflow: each is published before the next begins, and an MLflow that hangs costs its minute once."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.reporting.sinks.mlflow_sink import MlflowServer
from flows.rounds import tick_tracker as tracked
from flows.rounds.tick_tracker import TickTracker
from flows.store.runs import Runs
from tests.flows.fabricated import Fabricated, fabricate


def _tick(watch: TickTracker, made: Fabricated, number: int) -> str:
    """Publish a run without steps as a tick is published; returns its id."""
    run = replace(made.run, id=f"{made.run.id}-{number}", links={}, status="running")
    listeners = watch.listeners(made.graph)
    for listener in listeners:
        listener.run_started(run, made.graph, made.store.root / "logs")
    run.status = "done"
    for listener in listeners:
        listener.run_finished(run)
    watch.ended(SimpleNamespace(run=run))  # type: ignore[arg-type]
    return run.id


def _threads() -> int:
    return sum(t.name == "mlflow" for t in threading.enumerate())


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fabricated:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("flows.reporting.tracker.try_to_write_report", lambda *_: None)  # takes longer than a tick here
    return fabricate(tmp_path, rounds=1)


def test_a_tick_has_its_link_and_no_thread_is_left_once_it_has_ended(made: Fabricated) -> None:
    watch, before = TickTracker(made.store, lambda _: None), _threads()
    for number in (1, 2):
        id = _tick(watch, made, number)
        assert Runs(made.store).load(id).links["mlflow"].startswith("1/")
        assert _threads() == before
    assert [r.id for r in watch.runs] == [f"{made.run.id}-1", f"{made.run.id}-2"]
    assert watch.trouble == ""


def test_an_mlflow_that_hangs_is_waited_for_at_length_only_once(
    made: Fabricated, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()

    def hanging(self: MlflowServer, *_: Any) -> None:
        hang.wait(60)

    monkeypatch.setattr(MlflowServer, "__init__", hanging)
    monkeypatch.setattr(tracked, "WAIT_SECONDS", 2.0)
    monkeypatch.setattr(tracked, "AGAIN_SECONDS", 0.1)
    watch, took = TickTracker(made.store, lambda _: None), []
    for number in (1, 2):
        start = time.monotonic()
        _tick(watch, made, number)
        took.append(time.monotonic() - start)
    hang.set()
    assert took[0] >= 2.0
    assert took[1] < 2.0
    assert "did not take everything" in watch.trouble


def test_a_tick_that_ended_by_an_error_is_closed_too(made: Fabricated) -> None:
    watch, before = TickTracker(made.store, lambda _: None), _threads()
    watch.listeners(made.graph)
    assert _threads() == before + 1
    watch.close()
    watch.close()
    assert _threads() == before
