"""A Prefect server that goes away in mid-run: results are kept, one message reports it, and the process ends soon."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.rounds.ledger import Ledger
from flows.run.prefect.server import Server
from flows.store.store import Store
from tests.flows.commands.processes import place
from tests.flows.rounds.conftest import loop_project
from tests.flows.tiny import ROOT

SECONDS = 100.0
"""From the end of the server to the end of the process: 6 s for the run and 20 for the ticks where nothing else is at
work, 150 and more where all is waited for that Prefect repeats."""


TICKS = """
import sys
from pathlib import Path
from rich.console import Console
from flows.commands.run_ticks import run_ticks
from flows.rounds.head import Continuing
from flows.run.events import Listener
from flows.store.store import Store
import flows.commands.run_ticks

class Tell(Listener):
    def step_progress(self, node, done, total, unit):
        print("progress", flush=True)

flows.commands.run_ticks.progress = lambda *_: Tell()
project = Path(sys.argv[1])
store = Store(project / "artifacts")
loop = Continuing(project / "pipelines.yaml", "loop", "nightly", store, tasks_root=project / "tasks")
print("ended with", run_ticks(loop, {"pause": "2.0", "rounds": "2"}, False, Console(width=160)))
"""


def _ended_after(program: str, project: Path, log: Path) -> tuple[float, str]:
    """Seconds from the end of the server, which ends at the first progress, to that of the program, and its words."""
    server = Server(log.parent / "served", log=log)
    environment = place(**server.client, MLFLOW_TRACKING_URI=f"sqlite:///{log.parent / 'mlflow.db'}")
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program, str(project)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            output = ""
            while "progress" not in output:
                line = process.stdout.readline()
                assert line, output
                output += line
            server.stop()
            start = time.monotonic()
            output += process.communicate(timeout=SECONDS)[0]
            return time.monotonic() - start, output
        finally:
            process.kill()
            server.stop()


def _went_away(output: str) -> None:
    assert output.count("went away") == 1
    assert "Traceback" not in output
    assert "EventsWorker" not in output
    assert len(output) < 6000, output


@pytest.mark.slow
def test_ticks_go_on_get_their_verdicts_and_are_told(tmp_path: Path) -> None:
    project = loop_project(tmp_path)
    took, output = _ended_after(TICKS, project, tmp_path / "server.log")
    _went_away(output)
    assert "ended with 0" in output
    assert "alignflow rounds loop/nightly" in output
    assert took < SECONDS
    rounds = Ledger(Store(project / "artifacts"), "loop", "nightly").history().rounds
    assert [r.verdict for r in rounds] == ["accepted", "accepted"]
