"""No round is skipped or repeated: ticks at once and ticks killed at any moment, as processes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.rounds.history import History
from flows.rounds.ledger import Ledger
from flows.run.prefect.password import client_settings, password_of_this_process
from flows.store.runs import Runs
from flows.store.store import Store
from tests.flows.rounds.conftest import Loop, loop_project
from tests.flows.tiny import ROOT

KILLS = int(os.environ.get("ALIGNFLOW_KILLS", "10"))
PROGRAM = """
import sys
from pathlib import Path
from rich.console import Console
from flows.commands.run_ticks import run_ticks
from flows.rounds.head import Continuing
from flows.store.store import Store

project = Path(sys.argv[1])
store = Store(project / "artifacts")
loop = Continuing(project / "pipelines.yaml", "loop", "nightly", store, tasks_root=project / "tasks")
sys.exit(run_ticks(loop, dict(a.split("=") for a in sys.argv[2:]), False, Console(width=200)))
"""


def _start(project: Path, *values: str, server: str = "") -> subprocess.Popen[str]:
    """A process that ticks, on this Prefect server or on one of its own."""
    place = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))} | {"OMP_NUM_THREADS": "1"}
    place |= client_settings(server, password_of_this_process()) if server else {}
    command = [sys.executable, "-c", PROGRAM, str(project), *values]
    return subprocess.Popen(
        command, cwd=ROOT, env=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def _history(project: Path) -> History:
    return Ledger(Store(project / "artifacts"), "loop", "nightly").history()


def _contents(project: Path) -> list[tuple[str, dict[str, str | None]]]:
    """Verdict and carried contents of every round."""
    history = _history(project)
    assert [r.begun.number for r in history.rounds] == list(range(1, history.last + 1))
    return [
        (r.verdict, {n: c.digest if c else None for n, c in r.finished.values.items()} if r.finished else {})
        for r in history.rounds
    ]


def _keys(project: Path) -> dict[str, str]:
    """Step → key, for all steps of rounds that are done; a step of one round has one key, however often it ran."""
    found: dict[str, str] = {}
    for run in Runs(Store(project / "artifacts")).newest("loop"):
        for step in run.steps.values():
            if step.round and step.key:
                assert found.setdefault(step.id, step.key) == step.key
    return found


def _until(process: subprocess.Popen[str], message: str) -> str:
    assert process.stdout
    lines = ""
    for line in process.stdout:
        lines += line
        if message in line:
            return lines
    raise AssertionError(lines)


def _at_work(project: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the ledger changes, so that the next moments are those of a round."""
    ledger = Ledger(Store(project / "artifacts"), "loop", "nightly")
    before = len(ledger.events())
    while process.poll() is None and len(ledger.events()) == before:
        time.sleep(0.02)


def test_a_tick_killed_in_its_round_is_finished_first_whatever_the_next_request_is(
    tmp_path: Path, server: str, loop: Loop
) -> None:
    killed, whole = loop_project(tmp_path / "killed"), loop.project
    loop.tick({"pause": 0.4}, rounds=2)
    with _start(killed, "pause=0.4", "rounds=2", server=server) as first:
        _until(first, "round 2 · policy: grow")
        os.kill(first.pid, signal.SIGKILL)
    left = _history(killed)
    assert [r.verdict for r in left.rounds] == ["accepted", "unfinished"]
    with _start(killed, "gain=3.0", server=server) as second:
        assert second.stdout
        message = second.stdout.read()
    assert second.returncode == 0, message
    assert message.index("round 2 of loop/nightly was left unfinished") < message.index(
        "round 3 of loop/nightly accepted"
    )
    assert _contents(killed)[:2] == _contents(whole)
    assert len(_contents(killed)) == 3
    again = _history(killed)
    assert dict(again.rounds[1].begun.overrides) == {"pause": "0.4"}
    assert again.rounds[2].begun.parameters["gain"] == 3.0
    assert _keys(whole).items() <= _keys(killed).items()
    assert Runs(Store(killed / "artifacts")).open() == []


def test_of_two_ticks_at_once_the_second_waits_and_takes_the_next_number(tmp_path: Path, server: str) -> None:
    project = loop_project(tmp_path)
    both = [_start(project, "pause=0.5", "rounds=2", server=server) for _ in range(2)]
    message = [process.communicate(timeout=280)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], message
    assert [verdict for verdict, _ in _contents(project)] == ["accepted"] * 4
    assert any("another tick of loop/nightly is at work (pid " in text for text in message)
    history = _history(project)
    assert len({run for r in history.rounds for run in r.runs}) == 4
    assert len({r.finished.values["policy"] for r in history.rounds if r.finished}) == 4


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path: Path, server: str) -> None:
    project = loop_project(tmp_path)
    with _start(project, "pause=20", "rounds=3", server=server) as process:
        _until(process, "round 1 · policy: grow")
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout
        message = process.stdout.read()
    assert process.returncode == 130, message
    assert "the next tick finishes round 1 first" in message
    assert "Go on with: alignflow run loop/nightly rounds=2 pause=20" in message
    assert "Traceback" not in message
    assert [r.verdict for r in _history(project).rounds] == ["unfinished"]
    assert Runs(Store(project / "artifacts")).open() == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_random_kills_skip_and_repeat_no_round_and_change_no_digest(tmp_path: Path) -> None:
    """Rounds are asked for one at a time; two of five are rejected, so that both verdicts are met."""
    whole, killed = loop_project(tmp_path / "whole"), loop_project(tmp_path / "killed")
    gains = ["gain=1.0", "gain=1.5", "gain=-1.0", "gain=2.0", "gain=-2.0"]

    def asked(number: int) -> tuple[str, str]:
        return gains[(number - 1) % len(gains)], "pause=0.5"

    def ended(process: subprocess.Popen[str], seconds: float) -> None:
        message = process.communicate(timeout=seconds)[0]
        assert process.returncode == 0, message

    begun = time.monotonic()
    ended(_start(whole, *asked(1)), 300)
    length = time.monotonic() - begun
    chance, struck, missed, resumed = random.Random(0), 0, 0, 0
    while struck < KILLS:
        # what is unfinished is finished first; the new round after it is the one that is asked for
        process = _start(killed, *asked(_history(killed).last + 1))
        try:
            if chance.random() < 0.75:
                _at_work(killed, process)
                ended(process, chance.uniform(0, 0.4) * length)
            else:
                ended(process, chance.uniform(0.2, 1.3) * length)
            missed += 1
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            struck += 1
            resumed += _history(killed).open is not None
    ended(_start(killed, *asked(_history(killed).last + 1)), 300)
    last = _history(killed).last
    for number in range(2, last + 1):
        ended(_start(whole, *asked(number)), 300)
    print(f"{struck} kills, {resumed} within a round; {missed} ticks not struck, {length:.1f} s a tick, {last} rounds")
    assert resumed
    assert _history(killed).open is None
    assert _contents(killed) == _contents(whole)
    assert _keys(killed) == _keys(whole)
