"""Ranks: what each of them is, and that one that fails, dies or hangs ends all, with a message that names it."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.run.executors.base import Needs, StepFailed, Stopped
from flows.run.executors.forkserver import Workers
from flows.run.executors.job import Input, Job
from flows.system.gpus import Gpu
from tasks.contract import DataError, SpecError
from tasks.kinds import Prompts
from tests.flows.processes import all_ended
from tests.flows.tiny import ROOT, tiny_project

FOUR = [Gpu(f"GPU-{letter}", 80 * 2**30) for letter in "abcd"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def workers(place: Path) -> Iterator[Workers]:
    made = Workers(place, place / "forkserver.log", "these tests", threads=6, gpus=FOUR)
    made.start(["pyarrow"])
    yield made
    made.close()


def _job(folder: Path, **given: Any) -> Job:
    (folder / "prompts").mkdir(exist_ok=True)
    Prompts.of(_table()).save(folder / "prompts")
    inputs = {"prompts": (Input("Prompts", folder / "prompts", "d"),)}
    return Job("tasks.tiny", "ranked", inputs, frozenset(), given, folder / "partial", folder / "ranked.log", True)


def _table() -> Any:
    import pyarrow as pa

    return pa.table({"prompt_id": ["0"], "prompt": [[{"role": "user", "content": "0"}]]})


def _pids(folder: Path, ranks: int) -> list[int]:
    files = [folder / "partial" / "work" / f"pid-{rank}" for rank in range(ranks)]
    while not all(file.exists() and file.read_text() for file in files):
        time.sleep(0.01)
    return [int(file.read_text()) for file in files]


def _ignore(*_: Any) -> None:
    pass


def test_each_rank_has_its_gpu_its_share_of_the_threads_and_only_rank_0_reports(
    workers: Workers, tmp_path: Path
) -> None:
    events: list[tuple[Any, ...]] = []
    needs = Needs(True, gpus=1, ranks=3, sharding="fsdp")
    result = workers.submit(_job(tmp_path), lambda *event: events.append(event), needs)
    assert Prompts(result.path).table.column("prompt_id").to_pylist() == [
        "0:3:2:GPU-a:fsdp:output", "1:3:2:GPU-b:fsdp:.output-1", "2:3:2:GPU-c:fsdp:.output-2"
    ]  # fmt: skip
    assert events[0] == ("started",)
    assert {event[0] for event in events} == {"started", "progress"}
    assert events[-1] == ("progress", 4.0, 4.0, "steps")
    assert result.totals == {"steps": 4}
    assert sorted(file.name for file in (tmp_path / "partial").iterdir()) == ["output", "work"]
    assert [(tmp_path / f"ranked{rank}.log").read_text() for rank in ("", ".rank1", ".rank2")] == ["begins\n"] * 3
    assert all_ended(_pids(tmp_path, 3))


def test_a_refusal_of_any_rank_is_that_of_the_step(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^no such thing \(rank 1 of 3\)$"):
        workers.submit(_job(tmp_path, how="spec", at=1), _ignore, Needs(True, gpus=1, ranks=3))
    assert all_ended(_pids(tmp_path, 3))
    (tmp_path / "second").mkdir()
    with pytest.raises(DataError, match=r"^3 rows do not match$"):
        workers.submit(_job(tmp_path / "second", how="data", at=0), _ignore, Needs(True, gpus=1, ranks=2))


def test_a_rank_that_fails_is_named_with_the_last_lines_of_its_log(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(StepFailed) as raised:
        workers.submit(_job(tmp_path, how="bug", at=2), _ignore, Needs(True, gpus=1, ranks=3))
    first, log, *lines = str(raised.value).splitlines()
    assert first == "rank 2 of 3 of 'ranked' failed: ZeroDivisionError: seven by nought"
    assert log == f"  log: {tmp_path / 'ranked.rank2.log'}"
    assert len(lines) == 12
    assert lines[-1] == "    ZeroDivisionError: seven by nought"
    assert all_ended(_pids(tmp_path, 3))


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_is_killed_at_any_moment_ends_all(workers: Workers, tmp_path: Path, rank: int) -> None:
    pause = random.Random(rank).uniform(0, 0.3)

    def kill() -> None:
        pid = _pids(tmp_path, 3)[rank]
        time.sleep(pause)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    message = rf"^rank {rank} of 3 of 'ranked' was killed by SIGKILL \(out of memory\?\)\n  log: .*\n    begins$"
    with pytest.raises(StepFailed, match=message):
        workers.submit(_job(tmp_path, steps=2000, rest=0.01), _ignore, Needs(True, gpus=1, ranks=3))
    killer.join()
    assert all_ended(_pids(tmp_path, 3))


def test_ranks_that_hang_are_ended_and_the_message_shows_where_each_is(workers: Workers, tmp_path: Path) -> None:
    needs = Needs(True, gpus=1, ranks=3, timeout=1.0)
    with pytest.raises(StepFailed) as raised:
        workers.submit(_job(tmp_path, how="stop", at=1), _ignore, needs)
    first, *ranks = str(raised.value).splitlines()
    assert first == (
        "the 3 ranks of 'ranked' hang (rank 1 is stopped): none gave a sign of life for 1 s, so all were ended"
    )
    assert re.fullmatch(rf"  rank 0: \w+, silent for \d s; log: {tmp_path}/ranked.log", ranks[0])
    assert re.fullmatch(r'    File ".*/tasks/tiny.py", line \d+ in ranked', ranks[1])
    assert f"  rank 1: stopped, silent for 1 s; log: {tmp_path}/ranked.rank1.log" in ranks
    assert all_ended(_pids(tmp_path, 3))


def test_a_rank_may_wait_for_longer_than_the_timeout_while_another_one_works(workers: Workers, tmp_path: Path) -> None:
    needs = Needs(True, gpus=1, ranks=2, timeout=0.9)
    result = workers.submit(_job(tmp_path, steps=5, rest=0.5), _ignore, needs)
    assert result.totals == {"steps": 5}


def test_stopping_a_run_ends_its_ranks(place: Path, tmp_path: Path) -> None:
    workers = Workers(place, tmp_path / "forkserver.log", "this test", threads=2)
    workers.start([])
    raised: list[BaseException] = []

    def run() -> None:
        try:
            workers.submit(_job(tmp_path, steps=5000, rest=0.01), _ignore, Needs(True, gpus=1, ranks=2))
        except BaseException as e:
            raised.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    pids = _pids(tmp_path, 2)
    workers.stop()
    thread.join(10)
    workers.close()
    assert [type(e) for e in raised] == [Stopped]
    assert all_ended(pids)


RUN = """
import sys
from pathlib import Path
from tests.flows.run.executors.test_teams import _ignore, _job
from flows.run.executors.base import Needs
from flows.run.executors.forkserver import Workers

place, folder = Path(sys.argv[1]), Path(sys.argv[2])
workers = Workers(place, folder / "forkserver.log", "this test", threads=2)
workers.start([])
workers.submit(_job(folder, steps=5000, rest=0.01), _ignore, Needs(True, ranks=2))
"""


def test_no_rank_outlives_a_killed_run(place: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", RUN, str(place), str(tmp_path)], cwd=ROOT, env=environment) as main:
        pids = _pids(tmp_path, 2)
        os.kill(main.pid, signal.SIGKILL)
    assert all_ended(pids)


@pytest.mark.slow
def test_ranks_killed_at_many_moments_of_their_lives_leave_no_process_and_the_next_job_runs(
    workers: Workers, tmp_path: Path
) -> None:
    draw = random.Random(0)
    for attempt in range(40):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        rank, pause = draw.randrange(3), draw.uniform(0, 0.4)
        pids: list[int] = []

        def kill(rank: int = rank, pause: float = pause, pids: list[int] = pids) -> None:
            while not (teams := list(workers._teams)):
                time.sleep(0.001)
            time.sleep(pause)
            pids += [child._popen.pid for child in teams[0]._children]
            os.kill(pids[rank], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(StepFailed, match=rf"^rank {rank} of 3 of 'ranked' was killed by SIGKILL"):
            workers.submit(_job(folder, steps=2000, rest=0.01), _ignore, Needs(True, gpus=1, ranks=3))
        killer.join()
        assert all_ended(pids)
    (tmp_path / "last").mkdir()
    assert workers.submit(_job(tmp_path / "last"), _ignore, Needs(True, gpus=1, ranks=4)).totals == {"steps": 4}


COLLECTIVE = '''
from __future__ import annotations

import os, signal, time

import pyarrow as pa

from tasks.contract import Workspace
from tasks.kinds import Prompts
from tasks.ranks import barrier, gather_all, this_rank

UNKEYED = {"os.kill": "a test of failures"}


def collective(prompts: Prompts, work: Workspace, *, how: str, at: int) -> Prompts:
    """Barriers of torch, in which one rank fails in a given way."""
    rank, _ = this_rank()
    (work.path / f"pid-{rank}").write_text(str(os.getpid()))
    for step in range(200):
        work.progress(step, 200, "steps")
        if step == 3 and rank == at and how == "sleep":
            time.sleep(600)
        if step == 3 and rank == at and how in ("KILL", "STOP"):
            os.kill(os.getpid(), getattr(signal, f"SIG{how}"))
        barrier()
    ids = [str(rank) for rank in gather_all(rank)]
    return Prompts.of(pa.table({"prompt_id": ids, "prompt": [[{"role": "user", "content": i}] for i in ids]}))
'''


@pytest.mark.slow
def test_ranks_in_collectives_of_torch_end_whatever_becomes_of_one(tmp_path: Path) -> None:
    place = tiny_project(tmp_path / "project")
    shutil.copy2(ROOT / "tasks" / "ranks.py", place / "tasks")
    (place / "tasks" / "tiny.py").write_text(COLLECTIVE)
    workers = Workers(place, place / "forkserver.log", "this test", threads=3)
    workers.start(["pyarrow", "torch"])

    def run(how: str, at: int) -> list[str]:
        folder = tmp_path / f"{how}-{at}"
        folder.mkdir()
        job = replace(_job(folder, how=how, at=at), task="collective")
        result = workers.submit(job, _ignore, Needs(True, ranks=3, timeout=4.0))
        return Prompts(result.path).table.column("prompt_id").to_pylist()

    assert run("well", 0) == ["0", "1", "2"]
    endings = {
        "KILL": r"^rank {} of 3 of 'collective' was killed by SIGKILL",
        "STOP": r"^the 3 ranks of 'collective' hang \(rank {} is stopped\): ",
        "sleep": r'(?s)^the 3 ranks of .* rank {}: sleeping, silent for \d s; .*?File ".*", line \d+ in collective',
    }
    for how, message in endings.items():
        for at in range(3):
            with pytest.raises(StepFailed, match=message.format(at)):
                run(how, at)
            assert all_ended(_pids(tmp_path / f"{how}-{at}", 3))
    workers.close()
