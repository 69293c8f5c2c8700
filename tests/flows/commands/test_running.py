"""Where the end of a run says that its pages are."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from flows.commands.running import tell_where
from tests.flows.fabricated import fabricate


def _footer(folder: Path) -> list[str]:
    made, out = fabricate(folder, rounds=1), io.StringIO()
    run = replace(made.run, links={"prefect": "f1"})
    tracker = SimpleNamespace(page="#/experiments/1/runs/r1", drawn=[])
    tell_where(Console(file=out, width=200), made.store, run, tracker, "")  # type: ignore[arg-type]
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


@pytest.fixture(autouse=True)
def _none_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_UI_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def test_without_servers_of_the_user_pages_are_those_of_alignflow_up(tmp_path: Path) -> None:
    said = _footer(tmp_path)
    assert "pages alignflow up (starts both; then open)" in said
    assert said[-2:] == ["http://127.0.0.1:5000/#/experiments/1/runs/r1", "http://127.0.0.1:4200/runs/flow-run/f1"]


def test_pages_are_those_of_the_users_servers_without_their_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://me:secret@prefect.example.org/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org")
    said = _footer(tmp_path)
    assert "pages" in said
    assert said[-2:] == [
        "https://mlflow.example.org/#/experiments/1/runs/r1", "http://prefect.example.org/runs/flow-run/f1",
    ]  # fmt: skip


def test_one_server_of_the_user_leaves_the_other_page_to_alignflow_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example.org/api")
    said = _footer(tmp_path)
    assert "pages alignflow up (starts both; then open)" in said
    assert said[-2:] == ["http://127.0.0.1:5000/#/experiments/1/runs/r1", "http://prefect.example.org/runs/flow-run/f1"]
