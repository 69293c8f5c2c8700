"""A step that waits for people: the run goes on without it, ends as `waiting`, and a second run takes their answers."""

from pathlib import Path

import pytest

from flows.commands.outcome import print_outcome
from flows.commands.run import CODES
from flows.commands.show import show_text
from flows.reporting.sinks.prefect_mirror import STATES
from flows.reporting.sinks.publication import STATUS
from flows.run.executors.base import Stopped
from flows.run.run import Execution, run_cached, run_pipeline
from flows.store.runs import Runs
from flows.store.store import Store
from flows.wiring.model import Graph, Node
from tasks.contract import DataError
from tests.flows.commands.processes import printed
from tests.flows.inline import run_inline
from tests.flows.run.test_execution import _api, _flow_state
from tests.flows.tiny import graph, node, tiny_project


def _graph(project: Path, *more: Node) -> Graph:
    """A step of people, one behind it, and one that needs neither."""
    return graph(
        project, node("a", "numbers", count=2), node("people", "answered"),
        node("behind", "shout", inputs={"prompts": "people"}),
        node("free", "shout", inputs={"prompts": "a"}), *more,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _file_of_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSWERS", str(tmp_path / "answers.txt"))


def test_what_does_not_need_the_people_runs_and_the_next_run_goes_on_with_their_answers(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    project = tiny_project(tmp_path)
    store = Store(project / "artifacts")
    first = run_pipeline(Execution(_graph(project), store, threads=1))
    states = {step.id: step.state for step in first.run.steps.values()}
    assert first.run.status == "waiting"
    assert states == {"a": "made", "people": "waiting", "behind": "skipped", "free": "made"}
    assert (first.errors, first.waiting) == ({}, {"people": f"write {project / 'answers.txt'}"})
    assert _flow_state(server, first.run.links["prefect"])["state"] == "Waiting"
    body = {"flow_runs": {"id": {"any_": [first.run.links["prefect"]]}}}
    tasks = {t["name"]: (t["state_type"], t["state_name"]) for t in _api(server, "task_runs/filter", body)}
    assert tasks["people"] == ("CANCELLED", "Waiting")
    assert "Failed" not in {name for _, name in tasks.values()}
    assert Runs(store).load(first.run.id).steps["people"].reason == f"write {project / 'answers.txt'}"

    (project / "answers.txt").write_text("yes no")
    second = run_pipeline(Execution(_graph(project), store, threads=1))
    assert second.run.status == "done"
    assert {s.id: s.state for s in second.run.steps.values()} == {
        "a": "hit", "people": "made", "behind": "made", "free": "hit"
    }  # fmt: skip


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execution:
    run_inline(monkeypatch)
    project = tiny_project(tmp_path)
    return run_cached(Execution(_graph(project), Store(project / "artifacts")))


def test_the_end_of_a_run_and_show_say_what_people_have_to_do(waiting: Execution) -> None:
    store, run = waiting.store, waiting.run
    end = printed(lambda console: print_outcome(console, store, waiting))
    assert f"… people waits for people: {waiting.waiting['people']}" in end.replace("\n", "")
    assert "tiny: waiting in" in end
    shown = printed(lambda console: show_text(store, run.id, 5, console))
    assert "waits for people: write" in shown


def test_waiting_has_an_exit_code_and_states_elsewhere_that_are_no_failures() -> None:
    assert CODES["waiting"] == 3
    assert STATUS["waiting"] == "SCHEDULED"
    assert STATES["waiting"] == ("CANCELLED", "Waiting")


def test_a_failure_beside_it_makes_the_run_a_failed_one(waiting: Execution) -> None:
    waiting.errors["free"] = DataError("of another step")
    assert waiting._status() == "failed"


def test_a_run_that_was_stopped_while_it_waited_is_a_stopped_one(waiting: Execution) -> None:
    node = waiting.graph.nodes["free"]
    waiting._failed(node, Stopped("the run is being stopped"))
    waiting._mark(node, "stopped")
    assert waiting._status() == "stopped"
