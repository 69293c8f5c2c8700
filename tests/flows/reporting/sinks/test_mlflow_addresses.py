"""Where pages are, and that no password is shown with them."""

from pathlib import Path

import pytest

from flows.reporting.sinks.mlflow_sink import address, served_elsewhere
from flows.reporting.sinks.tracking import short_error
from flows.reporting.tracker import Tracker
from flows.run.prefect.server import prefect_page
from flows.system.environment import without_password
from tests.flows.fabricated import fabricate

CLOUD = "https://api.prefect.cloud/api/accounts/a1/workspaces/w1"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5000/x", "http://host:5000/x"),
        ("postgresql://me:se@cret@host/db", "postgresql://host/db"),
        ("refused by https://token@host, see http://other/a@b", "refused by https://host, see http://other/a@b"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("http://host?to=a@b", "http://host?to=a@b"),
    ],
)
def test_names_and_passwords_are_dropped_and_nothing_else(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


def test_mlflow_is_where_it_is_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert (address(tmp_path), served_elsewhere(tmp_path)) == ("http://127.0.0.1:5000", False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/db")
    assert (address(tmp_path), served_elsewhere(tmp_path)) == ("http://127.0.0.1:5000", False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org/")
    assert (address(tmp_path), served_elsewhere(tmp_path)) == ("https://mlflow.example.org", True)


@pytest.mark.parametrize(
    ("environment", "page"),
    [
        ({}, "http://127.0.0.1:4200"), ({"PREFECT_API_URL": "http://me:secret@host:4300/api"}, "http://host:4300"),
        ({"PREFECT_API_URL": CLOUD}, "https://app.prefect.cloud/account/a1/workspace/w1"),
        ({"PREFECT_API_URL": "http://host/api", "PREFECT_UI_URL": "http://pages/"}, "http://pages"),
    ],
)  # fmt: skip
def test_prefects_pages_are_those_of_the_server_that_was_named(
    environment: dict[str, str], page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_UI_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert prefect_page(tmp_path) == page


def test_a_server_that_cannot_be_reached_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    made = fabricate(tmp_path, rounds=1)
    tracker = Tracker(made.store)
    tracker.run_started(made.run, made.graph, tmp_path)
    trouble = tracker.close()
    assert "127.0.0.1:1 cannot be reached" in trouble
    assert "secret" not in trouble
    assert "secret" not in short_error(ConnectionError("no answer from http://me:secret@127.0.0.1:1/api"))
