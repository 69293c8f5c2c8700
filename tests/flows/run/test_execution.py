"""A graph as a Prefect flow: what runs, what is found, how it fails, and how it is killed and goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.reporting.sinks.prefect_mirror import mirror, waiting_runs
from flows.run.events import Listener
from flows.run.executors.base import StepFailed, Stopped
from flows.run.prefect.password import password_of_this_process
from flows.run.run import Execution, run_cached, run_pipeline, steps_named
from flows.store.records import Record
from flows.store.runs import Runs
from flows.store.store import Store
from flows.wiring.model import Graph, Node
from tasks.contract import DataError, SpecError
from tests.flows.inline import run_inline
from tests.flows.processes import all_ended
from tests.flows.tiny import ROOT, graph, killable, node, tiny_project


@pytest.fixture
def project(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_API_URL", server)
    return tiny_project(tmp_path)


class Recorder(Listener):
    """Keeps the events of a run."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.hits: list[str] = []
        self.failed: dict[str, BaseException] = {}
        self.left: list[str] = []
        self.ready = threading.Event()

    def step_started(self, node: Node, reason: str, log: Path) -> None:
        self.started.append(node.id)

    def step_finished(self, node: Node, record: Record, *, hit: bool, reason: str) -> None:
        if hit:
            self.hits.append(node.id)

    def step_progress(self, node: Node, done: float, total: float, unit: str) -> None:
        self.ready.set()

    def step_failed(self, node: Node, error: BaseException) -> None:
        self.failed[node.id] = error

    def left_open(self, run: Any) -> None:
        self.left.append(run.id)


def _run(project: Path, wanted: Graph, **options: Any) -> tuple[Execution, Recorder]:
    events = Recorder()
    store = Store(project / "artifacts")
    return run_pipeline(Execution(wanted, store, listeners=[events], threads=1, **options)), events


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose runs stay in this process."""
    run_inline(monkeypatch)
    return tiny_project(tmp_path)


def _run_inline(project: Path, wanted: Graph, **options: Any) -> tuple[Execution, Recorder]:
    events = Recorder()
    execution = Execution(wanted, Store(project / "artifacts"), listeners=[events], **options)
    return run_cached(execution), events


def _diamond(project: Path, suffix: str = "!") -> Graph:
    return graph(
        project, node("a", "numbers", count=2), node("b@1", "shout", inputs={"prompts": "a"}, suffix=suffix),
        node("c", "shout", inputs={"prompts": "a"}, suffix="?"), node("d", "join", inputs={"tables": ["b@1", "c"]}),
    )  # fmt: skip


def _ids(execution: Execution, step: str) -> list[str]:
    return execution.store.open(execution.records[step]).table.column("prompt_id").to_pylist()  # type: ignore[attr-defined]


def _api(server: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """The answer of Prefect's server to a GET, or to a POST with this body."""
    import httpx

    name, _, password = password_of_this_process().partition(":")
    method = "GET" if body is None else "POST"
    return httpx.request(method, f"{server}/{path}", json=body, auth=(name, password)).json()


def _task_states(server: str, execution: Execution) -> dict[str, tuple[str, str]]:
    """Name → (state, message) of the task runs of a run, once the server has written them all."""
    body = {"flow_runs": {"id": {"any_": [execution.run.links["prefect"]]}}}
    for _ in range(200):
        task_runs = _api(server, "task_runs/filter", body)
        states = {t["name"]: (t["state_name"], t["state"]["message"]) for t in task_runs if t["state"]}
        if len(states) == len(execution.graph.nodes) and not {"Running", "Pending"} & {s for s, _ in states.values()}:
            return states
        time.sleep(0.05)
    raise AssertionError(f"the server did not write all states: {states}")


def _flow_state(server: str, run_id: str) -> dict[str, Any]:
    flow_run = _api(server, f"flow_runs/{run_id}")
    return {"name": flow_run["name"], "state": flow_run["state_name"]}


def test_every_step_is_a_task_run_and_a_second_run_executes_nothing(project: Path, server: str) -> None:
    first, events = _run(project, _diamond(project))
    assert (first.run.status, sorted(events.started), events.hits) == ("done", ["a", "b@1", "c", "d"], [])
    assert _ids(first, "d") == ["0!", "1!", "0?", "1?"]
    assert {n: s for n, (s, _) in _task_states(server, first).items()} == dict.fromkeys(
        ["a", "round 1 · b", "c", "d"], "Completed"
    )
    second, events = _run(project, _diamond(project))
    assert (second.run.status, events.started, sorted(events.hits)) == ("done", [], ["a", "b@1", "c", "d"])
    states = _task_states(server, second)
    assert {s for s, _ in states.values()} == {"Cached"}
    assert states["d"][1].startswith(f"reused {first.records['d'].content[:12]}: made 20")
    assert _flow_state(server, second.run.links["prefect"]) == {"name": second.run.id, "state": "Completed"}


def _edges(server: str, flow_run: str) -> dict[str, set[str]]:
    """Task run's name → names of those that fed it."""
    nodes = dict(_api(server, f"flow_runs/{flow_run}/graph-v2")["nodes"])
    return {n["label"]: {nodes[p["id"]]["label"] for p in n["parents"]} for n in nodes.values()}


def test_a_run_of_cached_steps_needs_no_server_and_is_recorded_by_the_next_one(
    project: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    store = Store(project / "artifacts")
    first = run_cached(Execution(_diamond(project), store))
    assert {s.state for s in first.run.steps.values()} == {"made"}  # what is gone by then is made
    second = run_cached(Execution(_diamond(project), store))
    assert (second.run.status, {s.state for s in second.run.steps.values()}) == ("done", {"hit"})
    assert mirror(store, second.run) == ""
    assert "prefect" not in second.run.links
    assert waiting_runs(store).ids() == [second.run.id]
    monkeypatch.setenv("PREFECT_API_URL", server)
    for _ in range(2):
        assert mirror(store, second.run) == ""
        flow_run = second.run.links["prefect"]
        assert _flow_state(server, flow_run) == {"name": second.run.id, "state": "Completed"}
        assert {s for s, _ in _task_states(server, second).values()} == {"Cached"}
    assert _edges(server, flow_run) == {"a": set(), "round 1 · b": {"a"}, "c": {"a"}, "d": {"round 1 · b", "c"}}
    assert waiting_runs(store).ids() == []
    assert Runs(store).load(second.run.id).links["prefect"] == flow_run


def test_a_run_that_prefect_does_not_take_waits_for_the_next_server(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(project / "artifacts")
    run = run_cached(Execution(_diamond(project), store)).run
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert mirror(store, run).startswith(f"Prefect did not take run {run.id} (")
    assert waiting_runs(store).ids() == [run.id]


def test_a_failed_step_ends_a_run_of_cached_steps(small: Path) -> None:
    failed, _ = _run_inline(small, graph(small, node("a", "refuse"), node("b", "numbers", count=1)))
    assert failed.run.status == "failed"
    assert {s.id: s.state for s in failed.run.steps.values()} == {"a": "failed", "b": "skipped"}
    assert str(failed.errors["a"]) == "no such thing"


def test_a_changed_parameter_runs_its_step_and_what_hangs_on_it(small: Path) -> None:
    _run_inline(small, _diamond(small))
    _, events = _run_inline(small, _diamond(small, suffix="."))
    assert (events.started, events.hits) == (["b@1", "d"], ["a", "c"])


def test_a_recomputation_that_gives_the_same_content_is_cut_off(small: Path) -> None:
    _run_inline(small, _diamond(small))
    source = small / "tasks" / "tiny.py"
    source.write_text(source.read_text().replace("[i + suffix for", "['' + i + suffix for"))
    _, events = _run_inline(small, _diamond(small))
    assert (events.started, events.hits) == (["b@1", "c"], ["a", "d"])


def test_fresh_recomputes_that_step_alone_where_its_content_is_equal(small: Path) -> None:
    _run_inline(small, _diamond(small))
    _, events = _run_inline(small, _diamond(small), fresh=["b"])
    assert (events.started, events.hits) == (["b@1"], ["a", "c", "d"])


def test_steps_are_named_by_round_by_name_and_by_composite(tmp_path: Path) -> None:
    ids = ["policy@1", "policy@2", "report/sample@1", "report/measure@1", "base_check"]
    wanted = graph(tmp_path, *(node(i, "numbers", count=1) for i in ids))
    assert steps_named(wanted, "policy") == ["policy@1", "policy@2"]
    assert steps_named(wanted, "policy@2") == ["policy@2"]
    assert steps_named(wanted, "report") == ["report/sample@1", "report/measure@1"]
    assert steps_named(wanted, "report/sample@1") == ["report/sample@1"]
    with pytest.raises(SpecError, match=r"no step 'base_chek' \(did you mean 'base_check'\?\)"):
        steps_named(wanted, "base_chek")


def test_a_failed_step_fails_the_run_and_other_branches_go_on(project: Path, server: str) -> None:
    wanted = graph(
        project, node("bad", "refuse", how="bug"), node("behind", "shout", inputs={"prompts": "bad"}),
        node("a", "numbers", count=1), node("other", "shout", inputs={"prompts": "a"}),
        node("spec", "refuse", how="spec"), node("data", "refuse", how="data"),
    )  # fmt: skip
    execution, events = _run(project, wanted, retries=2)
    assert execution.run.status == "failed"
    assert {i: type(e) for i, e in events.failed.items()} == {"bad": StepFailed, "spec": SpecError, "data": DataError}
    assert {i: s.state for i, s in execution.run.steps.items()} == {
        "bad": "failed", "behind": "skipped", "a": "made", "other": "made", "spec": "failed", "data": "failed",
    }  # fmt: skip
    logs = project / "artifacts" / "logs" / execution.run.id
    tries = {i: (logs / f"{i}.log").read_text().count("about to fail") for i in events.failed}
    assert tries == {"bad": 3, "spec": 1, "data": 1}, "a user's mistake is not tried again"
    assert _flow_state(server, execution.run.links["prefect"])["state"] == "Failed"
    assert Runs(execution.store).load(execution.run.id).steps["bad"].reason.startswith("ZeroDivisionError")


def test_an_edit_during_a_run_changes_neither_its_work_nor_its_keys(project: Path) -> None:
    wanted = graph(
        project, node("a", "numbers", count=1), node("wait", "slow", inputs={"prompts": "a"}, steps=3, pause=0.3),
        node("last", "shout", inputs={"prompts": "wait"}),
    )  # fmt: skip
    source = project / "tasks" / "tiny.py"
    before = source.read_text()

    class Editor(Listener):
        def step_progress(self, node: Node, done: float, total: float, unit: str) -> None:
            source.write_text(before.replace("[i + suffix for", "[suffix + i for"))

    store = Store(project / "artifacts")
    execution = run_pipeline(Execution(wanted, store, listeners=[Editor()], threads=1))
    assert _ids(execution, "last") == ["0-3!"]
    again, events = _run(project, wanted)
    assert (events.started, _ids(again, "last")) == (["last"], ["!0-3"])


def test_steps_with_the_same_weights_and_engine_share_a_warm_child(project: Path) -> None:
    from flows.wiring.model import ChoiceValue

    engine = ChoiceValue("engines", "plain", {"factor": 1})
    samples = [node(f"s{n}", "warm", inputs={"policy": "m"}, engine=engine, n=n) for n in range(3)]
    other = node("other", "warm", inputs={"policy": "m"}, engine=ChoiceValue("engines", "plain", {"factor": 2}), n=0)
    made = [node("a", "numbers", count=1), node("m", "model", "Policy", inputs={"prompts": "a"})]
    execution, _ = _run(project, graph(project, *made, *samples, other))
    calls = [_ids(execution, f"s{n}")[0].split(":") for n in range(3)]
    assert len({pid for pid, *_ in calls}) == 1
    assert sorted(count for _, count, *_ in calls) == ["1", "2", "3"]
    assert _ids(execution, "other")[0].split(":")[:2] != calls[0][:2]
    assert _ids(execution, "other")[0].split(":")[1] == "1"


def test_two_runs_that_need_the_same_step_at_once_compute_it_once(project: Path) -> None:
    wanted = graph(
        project, node("a", "numbers", count=1), node("s", "slow", inputs={"prompts": "a"}, steps=4, pause=0.2)
    )
    events = [Recorder(), Recorder()]

    def steps(listener: Recorder) -> None:
        with Execution(wanted, Store(project / "artifacts"), listeners=[listener], threads=1) as run:
            run.run.status = "running"
            for step in wanted.nodes.values():
                run.step(step)

    threads = [threading.Thread(target=steps, args=[h]) for h in events]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(events[0].started + events[1].started) == ["a", "s"]
    assert sorted(events[0].hits + events[1].hits) == ["a", "s"]


def test_a_step_whose_thread_is_late_when_the_run_is_stopped_is_recorded_as_stopped(tmp_path: Path) -> None:
    """The main thread closes the run's file without waiting for the threads of its steps."""
    project = tiny_project(tmp_path)
    store = Store(project / "artifacts")
    wanted = graph(project, node("a", "numbers", count=1), node("b", "shout", inputs={"prompts": "a"}))
    with Execution(wanted, store, threads=1) as execution:
        execution._mark(wanted.nodes["a"], "running")
    run = Runs(store).load(execution.run.id)
    assert (run.status, {id: s.state for id, s in run.steps.items()}) == ("stopped", {"a": "stopped", "b": "skipped"})


def test_a_stopped_run_is_recorded_as_stopped_and_the_next_one_goes_on(project: Path, server: str) -> None:
    wanted = graph(
        project, node("a", "numbers", count=1), node("s", "slow", inputs={"prompts": "a"}, steps=40, pause=0.05)
    )
    events = Recorder()
    store = Store(project / "artifacts")

    def interrupt() -> None:
        events.ready.wait(300)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    execution = run_pipeline(Execution(wanted, store, listeners=[events], threads=1))
    assert execution.run.status == "stopped"
    assert {i: s.state for i, s in execution.run.steps.items()} == {"a": "made", "s": "stopped"}
    assert _flow_state(server, execution.run.links["prefect"])["state"] == "Cancelled"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again, events = _run(project, wanted)
    assert (again.run.status, events.started, events.hits) == ("done", ["s"], ["a"])
    [notice] = again.records["s"].notices
    assert int(notice.removeprefix("began at ")) > 0
    assert [row["step"] for row in again.records["s"].curves] == list(range(40))


def test_a_step_that_waits_for_another_run_can_be_stopped(project: Path) -> None:
    wanted = graph(project, node("a", "numbers", count=1))
    store = Store(project / "artifacts")
    with Execution(wanted, store, threads=1) as execution:
        key = execution.steps.key(wanted.nodes["a"], {})
        with store.lock(key.digest):
            threading.Timer(0.3, execution.workers.stop).start()
            with pytest.raises(Stopped):
                execution.step(wanted.nodes["a"])


PROGRAM = """
import sys
from pathlib import Path
from flows.run.run import Execution, run_pipeline
from flows.run.events import Listener
from flows.store.store import Store
from tests.flows.tiny import killable

project = Path(sys.argv[1])

class Tell(Listener):
    def step_progress(self, node, done, total, unit):
        print("progress", flush=True)
    def left_open(self, run):
        print("left", run.id, flush=True)

wanted = killable(project)
done = run_pipeline(Execution(wanted, Store(project / "artifacts"), listeners=[Tell()], threads=1))
print(done.run.status, *(r.content for r in done.records.values()))
assert "torch" not in sys.modules
"""


def _program(project: Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    command = [sys.executable, "-c", PROGRAM, str(project)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_nothing_of_a_killed_run_is_left_and_the_next_one_ends_with_the_same_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, whole = tiny_project(tmp_path / "killed"), tiny_project(tmp_path / "whole")
    run_inline(monkeypatch)
    reference = run_cached(Execution(killable(whole), Store(whole / "artifacts")))
    with _program(killed) as main:
        assert main.stdout
        assert main.stdout.readline() == "progress\n"
        started = [main.pid, *(child.pid for child in psutil.Process(main.pid).children(recursive=True))]
        assert len(started) >= 4, "main, server, forkserver, child"
        os.kill(main.pid, signal.SIGKILL)
    assert all_ended(started)
    [left] = Runs(Store(killed / "artifacts")).open()
    with _program(killed) as again:
        assert again.stdout
        lines = again.stdout.read().split("\n")
    assert lines[0] == f"left {left.id}"
    assert " ".join(["done", *(r.content for r in reference.records.values())]) in lines
    assert Runs(Store(killed / "artifacts")).load(left.id).status == "stopped"
    assert _prefect_states(killed) == ["Crashed", "Completed"]


def _prefect_states(project: Path) -> list[str]:
    import sqlite3

    with sqlite3.connect(project / "artifacts" / ".prefect" / "prefect.db") as database:
        return [s for (s,) in database.execute("select state_name from flow_run order by created")]
