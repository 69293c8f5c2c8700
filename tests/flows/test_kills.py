"""The proof of resumption: `alignflow run sppo` killed again and again at random moments ends as an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.store.runs import Runs
from flows.store.store import Store

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("ALIGNFLOW_KILLS", "10"))
COMMAND = [sys.executable, "-c", "from flows.cli import main; main()"]


def _start(artifacts: Path) -> subprocess.Popen[bytes]:
    command = [*COMMAND, "run", "sppo", "--artifacts", str(artifacts)]
    with (artifacts.parent / "output.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def _digests(artifacts: Path) -> dict[str, str]:
    run = next(Runs(Store(artifacts)).newest("sppo"))
    assert run.status == "done"
    return {step.id: step.content for step in run.steps.values()}


def _mine(artifacts: Path) -> list[str]:
    """Command lines of live processes that hold something below `artifacts` open or name it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            held = {os.readlink(fd) for fd in (process / "fd").iterdir()}
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if int(process.name) != os.getpid() and any(h.startswith(str(artifacts)) for h in held | {*words.split()}):
            found.append(words)
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_random_kills_change_no_digest_and_leave_nothing_open(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole" / "artifacts", tmp_path / "killed" / "artifacts"
    for artifacts in (whole, killed):
        artifacts.mkdir(parents=True)
    begun = time.monotonic()
    assert _start(whole).wait() == 0
    length = time.monotonic() - begun
    chance = random.Random(0)
    struck = 0
    while struck < KILLS:
        run = _start(killed)
        try:
            assert run.wait(chance.uniform(1, length / 3)) == 0
            break
        except subprocess.TimeoutExpired:
            os.kill(run.pid, signal.SIGKILL)
            run.wait()
            struck += 1
        end = time.monotonic() + 20
        while (left := _mine(killed)) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left
    assert _start(killed).wait() == 0
    print(f"survived {struck} kills of a run of {length:.0f} s")
    assert struck
    assert _digests(killed) == _digests(whole)
    assert Runs(Store(killed)).open() == []
    assert _open_in(killed / ".prefect" / "prefect.db", "flow_run", "state_type") == []
    assert _open_in(killed / "mlflow.db", "runs", "status") == []


def _open_in(database: Path, table: str, column: str) -> list[str]:
    import sqlite3

    with sqlite3.connect(database) as connection:
        found = connection.execute(f"select {column} from {table} where {column} in ('RUNNING', 'PENDING')").fetchall()
    return [state for (state,) in found]
