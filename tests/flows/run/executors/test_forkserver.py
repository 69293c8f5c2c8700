"""Child processes: what they are given, what comes back, and that nothing of them stays behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.python.codebase import tasks_in
from flows.run.executors import room, worker
from flows.run.executors.base import Needs, StepFailed, Stopped
from flows.run.executors.forkserver import Workers
from flows.run.executors.job import Input, Job, Result, Seat
from flows.run.executors.snapshot import snapshot
from flows.system.gpus import Gpu
from tasks.contract import Chosen, DataError, SpecError
from tasks.declarations import Memory
from tasks.digests import with_digest, without_digest
from tasks.kinds import Prompts
from tests.flows.processes import all_ended
from tests.flows.tiny import ROOT, tiny_project


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def workers(place: Path) -> Iterator[Workers]:
    made = Workers(place, place / "logs" / "forkserver.log", "these tests", threads=1)
    made.start(["pyarrow"])
    yield made
    made.close()


def _job(folder: Path, task: str, **given: Any) -> Job:
    inputs = {port: tuple(value) for port, value in given.pop("inputs", {}).items()}
    work, lists = given.pop("work", False), frozenset(given.pop("lists", ()))
    return Job("tasks.tiny", task, inputs, lists, given, folder / "partial", folder / "logs" / f"{task}.log", work)


def _ids(result: Result) -> list[str]:
    return Prompts(result.path).table.column("prompt_id").to_pylist()


def _ignore(*_: Any) -> None:
    pass


def _input(result: Result) -> Input:
    return Input(result.kind, result.path, "d")


def test_a_child_saves_what_the_task_returns_below_the_jobs_folder(workers: Workers, tmp_path: Path) -> None:
    result = workers.submit(_job(tmp_path, "numbers", count=3, seed=4), _ignore)
    assert (result.kind, result.path) == ("Prompts", tmp_path / "partial" / "output")
    assert _ids(result) == ["4", "5", "6"]


def test_inputs_arrive_as_handles_and_lists_of_them(workers: Workers, tmp_path: Path) -> None:
    a = _input(workers.submit(_job(tmp_path / "a", "numbers", count=1), _ignore))
    b = _input(workers.submit(_job(tmp_path / "b", "shout", inputs={"prompts": [a]}, suffix="?"), _ignore))
    joined = _job(tmp_path / "c", "join", inputs={"tables": [b, a]}, lists=["tables"])
    assert _ids(workers.submit(joined, _ignore)) == ["0?", "0"]


def test_a_child_is_alone_and_imports_the_snapshot_and_not_the_checkout(
    workers: Workers, place: Path, tmp_path: Path
) -> None:
    seen = _ids(workers.submit(_job(tmp_path, "surroundings"), _ignore))
    assert seen == ["PASSIVE", "0", "1", "session True", str(place / "tasks"), "clean"]


def test_users_mistakes_come_back_as_they_are_and_bugs_with_the_logs_path(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^no such thing$"):
        workers.submit(_job(tmp_path, "refuse", how="spec"), _ignore)
    with pytest.raises(DataError, match=r"^3 rows do not match$"):
        workers.submit(_job(tmp_path, "refuse", how="data"), _ignore)
    with pytest.raises(StepFailed) as raised:
        workers.submit(_job(tmp_path, "refuse", how="bug"), _ignore)
    log = tmp_path / "logs" / "refuse.log"
    assert str(raised.value) == f"ZeroDivisionError: seven by nought\n  log: {log}"
    assert "about to fail\n" in log.read_text()
    assert "Traceback (most recent call last)" in log.read_text()


@pytest.mark.parametrize(
    ("how", "message"), [("kill", "was killed by SIGKILL (out of memory?)"), ("exit", "ended with code 7")]
)
def test_a_child_that_dies_fails_with_how_it_died(workers: Workers, tmp_path: Path, how: str, message: str) -> None:
    with pytest.raises(StepFailed) as raised:
        workers.submit(_job(tmp_path, "refuse", how=how), _ignore)
    assert message in str(raised.value)


def test_progress_notices_totals_and_curves_come_back(workers: Workers, tmp_path: Path) -> None:
    prompts = _input(workers.submit(_job(tmp_path / "a", "numbers", count=1), _ignore))
    received: list[tuple[Any, ...]] = []
    job = _job(tmp_path / "b", "slow", inputs={"prompts": [prompts]}, work=True, steps=3, pause=0.0)
    result = workers.submit(job, lambda *event: received.append(event))
    assert received[0] == ("started",)
    assert received[-2:] == [("progress", 3.0, 3.0, "steps"), ("notice", "began at 0")]
    assert result.totals == {"steps": 3}
    assert result.notices == ("began at 0",)
    assert [(row["step"], row["train/loss"]) for row in result.curves] == [(0, 1.0), (1, 1 / 2), (2, 1 / 3)]


def test_a_second_attempt_goes_on_and_drops_the_rows_that_it_logs_again(workers: Workers, tmp_path: Path) -> None:
    prompts = _input(workers.submit(_job(tmp_path / "a", "numbers", count=1), _ignore))
    partial = tmp_path / "b" / "partial"
    (partial / "work").mkdir(parents=True)
    (partial / "work" / "done").write_text("2")
    rows = [{"step": step, "train/loss": 9.0} for step in range(4)]
    (partial / "curves.jsonl").write_bytes(b"".join(map(with_digest, rows)) + with_digest({"step": 4})[:20])
    (partial / "output").mkdir()
    (partial / "output" / "stray").write_text("from the first attempt")
    job = _job(tmp_path / "b", "slow", inputs={"prompts": [prompts]}, work=True, steps=4, pause=0.0)
    result = workers.submit(job, _ignore)
    assert [row["train/loss"] for row in result.curves] == [9.0, 9.0, 1 / 3, 1 / 4]
    assert [without_digest(line) for line in (partial / "curves.jsonl").read_bytes().splitlines(keepends=True)] == list(
        result.curves
    )
    assert sorted(p.name for p in result.path.iterdir()) == ["table.arrow"]


def _warm(workers: Workers, folder: Path, n: int, affinity: str) -> tuple[str, str]:
    policy = Input("Policy", folder, "d")
    chosen = Chosen("engines", "plain", {"factor": 2}, "code", {})
    job = _job(folder / str(n), "warm", inputs={"policy": [policy]}, engine=chosen, n=n)
    pid, calls, engine, _ = _ids(workers.submit(job, _ignore, Needs(True, affinity=affinity, order=n)))[0].split(":")
    assert engine == "plainplain"
    return pid, calls


def test_a_heavy_child_stays_for_the_same_weights_and_rests_for_others(workers: Workers, tmp_path: Path) -> None:
    first, calls = _warm(workers, tmp_path, 1, "a")
    assert calls == "1"
    assert _warm(workers, tmp_path, 2, "a") == (first, "2")
    other, calls = _warm(workers, tmp_path, 3, "b")
    assert (other != first, calls) == (True, "1")
    assert all_ended([int(first)])
    assert _warm(workers, tmp_path, 4, "")[0] not in (first, other)
    assert _warm(workers, tmp_path, 5, "b") == (other, "2")


RESTING = """
STATE = {"rests": 0}


def rest():
    if STATE["rests"] == 1:
        raise OSError("no memory to rest in")
    STATE["rests"] += 1


def resting():
    return f"rested {STATE['rests']} times"
"""


def test_a_child_is_asked_to_rest_and_ends_where_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNFLOW_LOCKS", str(tmp_path / "locks"))  # the others of this file keep a warm child
    project = tiny_project(tmp_path / "project")
    (project / "tasks" / "sampling").mkdir()
    (project / "tasks" / "sampling" / "__init__.py").touch()
    (project / "tasks" / "sampling" / "requests.py").write_text(RESTING)
    (project / "tasks" / "engines" / "resting.py").write_text("from tasks.sampling.requests import resting\n")
    workers = Workers(project, tmp_path / "forkserver.log", "this test", threads=1)
    workers.start(["pyarrow"])
    policy = Input("Policy", tmp_path, "d")

    def sample(n: int) -> list[str]:
        chosen = Chosen("engines", "resting", {}, "code", {})
        job = _job(tmp_path / str(n), "warm", inputs={"policy": [policy]}, engine=chosen, n=n)
        return _ids(workers.submit(job, _ignore, Needs(True, affinity="a", order=n)))[0].split(":")

    def train(n: int) -> None:
        workers.submit(_job(tmp_path / str(n), "numbers", count=1), _ignore, Needs(True, order=n))

    first, *_ = sample(1)
    train(2)
    assert sample(3) == [first, "2", "rested 1 times", "3"]
    train(4)
    assert all_ended([int(first)])
    assert "OSError: no memory to rest in" in (tmp_path / "3" / "logs" / "warm.log").read_text()
    workers.close()


@pytest.mark.parametrize(
    ("memory", "ranks", "gpus", "fits"),
    [
        (None, 1, 0, True), (Memory({"all": 40.0}), 1, 0, True), (Memory({"all": 40.0}, host=21.0), 1, 0, False),
        (Memory({"all": 31.0}), 2, 0, False), (Memory({"all": 45.0}, host=60.0), 1, 1, True),
        (Memory({"all": 51.0}), 1, 1, False), (Memory({"all": 45.0}, host=31.0), 2, 2, False), (None, 1, 1, False),
    ],
)  # fmt: skip
def test_a_step_fits_beside_what_rests_where_the_machine_and_each_gpu_have_enough_left(
    memory: Memory | None, ranks: int, gpus: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "host_bytes", lambda: 100.0)
    monkeypatch.setattr(room, "available_bytes", lambda: 60.0)
    monkeypatch.setattr(room, "free_bytes", lambda uuid: 50.0)
    cards = [Gpu(f"GPU-{number}", 80.0) for number in range(gpus)]
    assert room.has_room(Needs(True, 1, ranks, memory=memory), cards) is fits


def test_stopping_kills_what_runs_and_refuses_what_comes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNFLOW_LOCKS", str(tmp_path / "locks"))
    workers = Workers(place, tmp_path / "forkserver.log", "these tests", threads=1)
    workers.start([])
    prompts = _input(workers.submit(_job(tmp_path / "a", "numbers", count=1), _ignore))
    given: dict[str, Any] = {"inputs": {"prompts": [prompts]}, "work": True, "steps": 1000}
    raised: list[BaseException] = []

    def run(exclusive: bool) -> None:
        job = _job(tmp_path / str(exclusive), "slow", **dict(given))
        try:
            workers.submit(job, lambda *_: started.release(), Needs(exclusive))
        except BaseException as e:
            raised.append(e)

    started = threading.Semaphore(0)
    threads = [threading.Thread(target=run, args=[exclusive]) for exclusive in (False, True)]
    for thread in threads:
        thread.start()
    assert started.acquire(timeout=20)
    assert started.acquire(timeout=20)
    workers.stop()
    for thread in threads:
        thread.join(10)
    assert [type(e) for e in raised] == [Stopped, Stopped]
    with pytest.raises(Stopped):
        workers.submit(_job(tmp_path, "slow", **dict(given)), _ignore)
    workers.close()


IMPORTING = """
import sys, time
from pathlib import Path
from flows.run.executors.forkserver import Workers

workers = Workers(Path(sys.argv[1]), Path(sys.argv[1]) / "forkserver.log", "this test", threads=1)
workers.start(["takes_long"])
while not (Path(sys.argv[1]) / "imported").exists():
    time.sleep(0.01)
print(workers._server._forkserver_pid, flush=True)
time.sleep(60)
"""


def test_a_forkserver_that_still_imports_dies_with_a_killed_main_process(tmp_path: Path) -> None:
    (tmp_path / "takes_long.py").write_text(
        "import pathlib, time\n(pathlib.Path(__file__).parent / 'imported').touch()\ntime.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-c", IMPORTING, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as main:
        assert main.stdout
        pid = int(main.stdout.readline())
        os.kill(main.pid, signal.SIGKILL)
    assert all_ended([pid])


def test_a_snapshot_stays_while_it_is_used_and_goes_with_the_next_one(tmp_path: Path) -> None:
    project, artifacts = tiny_project(tmp_path / "p"), tmp_path / "artifacts"
    with snapshot([tasks_in(project / "tasks")], artifacts) as first:
        source = project / "tasks" / "tiny.py"
        before = source.read_text()
        source.write_text(before + "\n# edited\n")
        assert (first / "tasks" / "tiny.py").read_text() == before
        with snapshot([tasks_in(project / "tasks")], artifacts) as second:
            assert second != first
            assert first.exists()
        with snapshot([tasks_in(project / "tasks")], artifacts) as again:
            assert again == second
    with snapshot([tasks_in(project / "tasks")], artifacts) as last:
        assert [p.name for p in (artifacts / "snapshots").iterdir()] == [last.name]


def test_a_refusal_of_a_derived_class_reaches_the_run_as_the_class_that_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullyBooked(DataError):
        pass

    def refuse(*_: object) -> None:
        raise FullyBooked("the server takes no more questions")

    monkeypatch.setattr(worker, "perform", refuse)
    found = worker._run(_job(tmp_path, "any"), lambda *_: None, Seat())
    assert found == ("refused", "DataError", "the server takes no more questions")
