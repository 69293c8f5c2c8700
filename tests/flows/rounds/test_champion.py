"""MLflow's model registry follows the ledger: the champion is what the gate accepted, and nothing else."""

from typing import Any

import pytest

from flows.commands.rounds import roll_back
from flows.reporting.sinks.mlflow_registry import CHAMPION
from flows.reporting.sinks.mlflow_sink import tracking_uri
from flows.reporting.sinks.pending import PendingRuns
from flows.rounds.tick import Ticks
from flows.rounds.tick_tracker import TickTracker
from flows.store.runs import Runs
from tasks.contract import JSON
from tests.flows.rounds.conftest import Loop


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "ALIGNFLOW_TRACKING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("flows.reporting.tracker.try_to_write_report", lambda *_: None)  # takes longer than all else


def _tick(loop: Loop, **parameters: JSON) -> None:
    tracker = TickTracker(loop.store, lambda _: None)
    Ticks(loop.continuing, tracker).make(parameters)
    assert tracker.trouble == ""


def _client(loop: Loop) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(loop.store.root))


def _digests(loop: Loop, family: str = "loop__nightly") -> list[str]:
    """Digests of the versions, oldest first."""
    versions = _client(loop).search_model_versions(f"name = '{family}'")
    return [v.tags["digest"] for v in sorted(versions, key=lambda v: int(v.version))]


def _champion(loop: Loop) -> str:
    """Digest of the version with the alias; empty where none has it."""
    aliases = _client(loop).get_registered_model("loop__nightly").aliases
    return _digests(loop)[int(aliases[CHAMPION]) - 1] if CHAMPION in aliases else ""


def _head(loop: Loop) -> str:
    carried = loop.history.head.values["policy"]
    assert carried
    return carried.digest


def test_the_champion_is_what_the_gate_accepted_and_follows_the_head_back(loop: Loop) -> None:
    _tick(loop)
    first = _head(loop)
    assert _champion(loop) == first
    _tick(loop, gain=-1.0)
    assert loop.verdicts() == ["accepted", "rejected"]
    assert len(_digests(loop)) == 2, "the rejected policy is a version, too"
    assert _champion(loop) == first
    _tick(loop)
    third = _head(loop)
    assert _champion(loop) == third != first
    roll_back(loop.store, "loop/nightly", 1)
    assert _champion(loop) == first
    roll_back(loop.store, "loop/nightly", 0)
    assert _champion(loop) == ""
    roll_back(loop.store, "loop/nightly", 3)
    assert _champion(loop) == third
    versions = _digests(loop)
    for run in Runs(loop.store).ids()[-2:]:
        PendingRuns(loop.store, "mlflow").add(run)
    _tick(loop)
    assert _digests(loop)[:3] == versions, "publishing runs again adds no version"
    assert len(_digests(loop)) == 4


def test_without_a_gate_there_are_versions_and_no_champion(loop: Loop) -> None:
    always = Loop(loop.project, "always-on")
    _tick(always)
    assert len(_digests(always, "loop__always-on")) == 1
    assert _client(always).get_registered_model("loop__always-on").aliases == {}


def test_an_mlflow_that_cannot_be_reached_leaves_the_way_back_open(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.tick(rounds=1)
    assert ";" not in roll_back(loop.store, "loop/nightly", 0), "nothing was tracked"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told = roll_back(loop.store, "loop/nightly", 1)
    assert "starts from what round 1 left; MLflow has another champion until the next tick (http://127.0.0.1:1" in told
    assert loop.history.head.round == 1
