"""How `alignflow serve` ends the runs that it executes."""

import asyncio
import subprocess
import sys

import psutil
import pytest

from flows.commands import serve as serving
from tests.flows.commands.processes import gone

DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_run_that_does_not_stop_is_killed_with_all_that_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "STOP_SECONDS", 1.0)
    messages: list[str] = []
    deaf, polite = (
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for code in (DEAF, "import time; print(flush=True); time.sleep(600)")
    )
    assert deaf.stdout
    assert polite.stdout
    polite.stdout.readline()
    child = psutil.Process(int(deaf.stdout.readline()))
    ours = {deaf.pid, polite.pid}
    found = [p for p in psutil.Process().children() if p.pid in ours]
    monkeypatch.setattr(psutil.Process, "children", _only(found, psutil.Process.children))
    asyncio.run(serving._stop_runs(messages.append))
    assert messages == ["stopping 2 runs", "killing 1 that did not stop within 1 s; what is finished is kept"]
    assert deaf.wait(10) == -9
    assert gone([*found, child])


def _only(runs: list[psutil.Process], children: object) -> object:
    """The children of this process are these, whatever else the tests before have left."""

    def found(self: psutil.Process, recursive: bool = False) -> list[psutil.Process]:
        return children(self, recursive) if self.pid != psutil.Process().pid else runs  # type: ignore[operator]

    return found
