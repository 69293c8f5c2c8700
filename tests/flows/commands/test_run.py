"""Where the end of a run says that its web UIs are, and which finished run stands for one that would repeat it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.commands.outcome import print_where
from flows.commands.repeats import finished_twin, left_open
from flows.planning.costs import StepCost
from flows.planning.plan import Plan, Planned
from flows.run.prefect.orphans import OWN, open_flow
from flows.store.runs import Run, Runs
from flows.system.locks import try_lock
from tests.flows.commands.processes import printed
from tests.flows.fabricated import Fabricated, fabricate


def _footer(folder: Path) -> dict[str, str]:
    made = fabricate(folder, rounds=1)
    run = replace(made.run, links={"prefect": "f1", "mlflow": "1/r1"})
    text = printed(lambda console: print_where(console, made.store, run))
    return {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in text.splitlines()}


@pytest.fixture(autouse=True)
def _none_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_UI_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def test_without_servers_the_end_shows_how_to_start_them_and_no_page_that_nobody_serves(tmp_path: Path) -> None:
    lines = _footer(tmp_path)
    assert lines["web"] == "UIs    alignflow up   (serves Prefect and MLflow, with this run in both)"
    assert not {"MLflow", "charts", "Prefect"} & set(lines)


def test_while_alignflow_up_serves_pages_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.run.prefect.server.answers", lambda url, seconds=3.0: True)
    held = try_lock(tmp_path / "artifacts" / "locks" / "up.lock", "http://127.0.0.1:4211 http://127.0.0.1:5011")
    assert held
    lines = _footer(tmp_path)
    held.release()
    assert "web" not in lines
    assert lines["MLflow"] == "http://127.0.0.1:5011/#/experiments/1/runs/r1?workflowType=machine_learning"
    assert lines["charts"].startswith(
        "http://127.0.0.1:5011/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=alignflow&"
    )
    assert lines["Prefect"] == "http://127.0.0.1:4211/runs/flow-run/f1"


def test_pages_are_those_of_the_users_servers_without_their_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://me:secret@prefect.example.org/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org")
    lines = _footer(tmp_path)
    assert "web" not in lines
    assert lines["MLflow"] == "https://mlflow.example.org/#/experiments/1/runs/r1?workflowType=machine_learning"
    assert lines["Prefect"] == "http://prefect.example.org/runs/flow-run/f1"


def _plan(made: Fabricated, **content: str) -> Plan:
    """A plan whose steps are all cached, with the records of the run; `content`: another one for a step."""
    records = {id: replace(r, content=content.get(id, r.content)) for id, r in made.records.items()}
    steps = (Planned(n, "cached", "", records[id].key, records[id], StepCost()) for id, n in made.graph.nodes.items())
    graph = replace(made.graph, parameters={n: made.graph.parameters[n] for n in made.run.parameters})
    return Plan(graph, tuple(steps))


@pytest.fixture
def made(tmp_path: Path) -> Fabricated:
    return fabricate(tmp_path, rounds=1)


def test_a_finished_run_with_the_same_parameters_keys_and_results_is_the_twin(made: Fabricated) -> None:
    twin = finished_twin(Runs(made.store), _plan(made))
    assert twin
    assert twin.id == made.run.id


@pytest.mark.parametrize(
    "changed",
    [
        lambda run: replace(run, status="failed"), lambda run: replace(run, deployment="nightly"),
        lambda run: replace(run, parameters={**run.parameters, "eta": 5.0}),
    ],
)  # fmt: skip
def test_another_status_deployment_or_parameter_is_no_twin(made: Fabricated, changed: Callable[[Run], Any]) -> None:
    Runs(made.store).save(changed(made.run))
    assert finished_twin(Runs(made.store), _plan(made)) is None


def test_a_result_that_came_out_different_is_no_twin(made: Fabricated) -> None:
    assert finished_twin(Runs(made.store), _plan(made, heldout="0" * 32)) is None


def test_a_run_that_was_killed_is_left_open_until_a_run_with_a_server_closes_it(made: Fabricated) -> None:
    runs = Runs(made.store)
    assert not left_open(made.store)
    run = runs.begin("sppo", {})
    assert not left_open(made.store)  # it lives
    runs._held[run.id].release()
    assert left_open(made.store)
    runs.end(run, "stopped")
    with open_flow(made.store.root, run.id, OWN) as flow:
        assert not left_open(made.store)
    assert left_open(made.store)  # the file of its lock stays, and nobody holds it
    assert not flow.closed
