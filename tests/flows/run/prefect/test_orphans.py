"""Flow runs that nobody ends, servers that end too early, databases that are damaged: the next run sees to them."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flows.run.events import Listener
from flows.run.prefect import api as prefect_api
from flows.run.prefect.orphans import OWN, close_orphaned_flows, open_flow
from flows.run.prefect.server import Server, set_aside_if_damaged, settings, use_template
from flows.run.run import Execution, run_pipeline
from flows.store.store import Store
from flows.system.environment import environment
from flows.wiring.model import Node
from tests.flows.tiny import ROOT, graph, node, tiny_project


@pytest.fixture
def artifacts(tmp_path: Path) -> Iterator[Path]:
    """A store with a Prefect server that Prefect's client uses."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    root = tmp_path / "artifacts"
    server = Server(root, log=root / "logs" / "prefect.log")
    with (
        environment({**settings(root), "PREFECT_API_URL": server.url}),
        temporary_settings({PREFECT_API_URL: server.url}),
    ):
        yield root
    server.stop()


def states(artifacts: Path, table: str = "flow_run") -> dict[str, str]:
    with closing(sqlite3.connect(artifacts / ".prefect" / "prefect.db")) as database:
        return dict(database.execute(f"select name, state_type from {table}").fetchall())


def test_an_orphaned_flow_run_is_closed_as_its_run_ended_and_no_other(artifacts: Path) -> None:
    from prefect import Flow
    from prefect.client.orchestration import get_client
    from prefect.states import Pending, Running

    with get_client(sync_client=True) as client:
        # as Prefect creates one; it gets its own name later
        client.create_flow_run(Flow(lambda: None, name="f"), name="brave-bee", tags=["young"], state=Pending())
        for name in ("killed", "done", "failed", "stopped", "alive", "elsewhere"):
            client.create_flow_run(Flow(lambda: None, name="f"), name=name, tags=[name], state=Running())
    for name in ("killed", "done", "failed", "stopped", "young"):
        with open_flow(artifacts, name, OWN) as opened:
            if name not in ("killed", "young"):
                opened.over(name)
    with open_flow(artifacts, "elsewhere", "http://server/api"):
        pass
    (artifacts / "locks" / "flow-x.lock").touch()  # killed before it wrote anything
    with open_flow(artifacts, "alive", OWN):
        close_orphaned_flows(artifacts, OWN)
        assert states(artifacts) == {
            "brave-bee": "CRASHED", "killed": "CRASHED", "done": "COMPLETED", "failed": "FAILED",
            "stopped": "CANCELLED", "alive": "RUNNING", "elsewhere": "RUNNING",
        }  # fmt: skip
    assert len(list((artifacts / "locks").glob("flow-*"))) == 2  # the one elsewhere, and now "alive"
    close_orphaned_flows(artifacts, "http://server/api")
    assert states(artifacts)["elsewhere"] == "CRASHED"


def test_a_flow_run_that_came_to_its_end_leaves_no_lock(tmp_path: Path) -> None:
    with open_flow(tmp_path, "a", OWN) as opened:
        opened.closed = True
    assert list((tmp_path / "locks").iterdir()) == []


@pytest.mark.parametrize("harm", ["header", "half", "page"])
def test_a_damaged_database_is_set_aside_with_its_log_and_a_whole_one_stays(tmp_path: Path, harm: str) -> None:
    home = tmp_path / ".prefect"
    use_template(home)
    database = home / "prefect.db"
    if not database.exists():
        pytest.skip("this environment has no migrated database; `make` prepares one")
    assert set_aside_if_damaged(tmp_path) == ""
    data = bytearray(database.read_bytes())
    if harm == "header":
        data[:100] = bytes(100)
    elif harm == "half":
        del data[len(data) // 2 :]
    else:
        page = int.from_bytes(data[16:18], "big")
        with closing(sqlite3.connect(database)) as connection:
            (root,) = connection.execute("select rootpage from sqlite_master where name = 'flow_run'").fetchone()
        data[(root - 1) * page : root * page] = b"\xff" * page
    database.write_bytes(data)
    (home / "prefect.db-wal").write_bytes(b"log")
    message = set_aside_if_damaged(tmp_path)
    (aside,) = (tmp_path / "damaged").iterdir()
    assert str(aside) in message
    assert (aside / "prefect.db").read_bytes() == data
    assert not database.exists()
    assert not (home / "prefect.db-wal").exists()


class Killer(Listener):
    """Kills the run's server as soon as a step goes on."""

    def __init__(self, servers: list[Server]) -> None:
        self._servers = servers

    def step_progress(self, node: Node, done: float, total: float, unit: str) -> None:
        os.kill(self._servers[-1].pid, signal.SIGKILL)


def test_a_run_goes_on_whatever_becomes_of_its_server_and_the_next_one_closes_its_flow_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: list[Server] = []

    class Mortal(Server):
        """Killed before it has answered anything, the first time."""

        def _start(self) -> None:
            super()._start()
            servers.append(self)
            if len(servers) == 1:
                os.kill(self.pid, signal.SIGKILL)

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(prefect_api, "Server", Mortal)
    project = tiny_project(tmp_path)
    store, messages = Store(project / "artifacts"), list[str]()
    slow = node("slow", "slow", inputs={"prompts": "a"}, steps=3, pause=0.1)
    wanted = graph(project, node("a", "numbers", count=2), slow)
    first = run_pipeline(Execution(wanted, store, listeners=[Killer(servers)], threads=1), say=messages.append)
    assert first.run.status == "done"
    assert ["did not begin" in s for s in messages] == [True, False]
    assert "went away" in messages[1]
    assert states(store.root) == {first.run.id: "RUNNING"}
    second = run_pipeline(Execution(wanted, store, threads=1), say=messages.append)
    assert states(store.root) == {first.run.id: "COMPLETED", second.run.id: "COMPLETED"}
    assert set(states(store.root, "task_run").values()) == {"COMPLETED"}
    assert len(messages) == 2
    assert list((store.root / "locks").glob("flow-*")) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from flows.run import run as execute
from flows.run.events import Listener
from flows.store.store import Store
from tests.flows.tiny import graph, node

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

class Dies(Listener):
    def run_finished(self, run):
        die()

project, when = Path(sys.argv[1]), sys.argv[2]
if when == "before its id is recorded":
    execute.close_orphaned_runs = die
listeners = [Dies()] if when == "after its last step" else []
wanted = graph(project, node("a", "numbers", count=2))
store = Store(project / "artifacts")
execute.run_pipeline(execute.Execution(wanted, store, listeners=listeners, threads=1))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "state"), [("before its id is recorded", "CRASHED"), ("after its last step", "COMPLETED")]
)
def test_a_run_that_was_killed_where_nothing_of_it_is_recorded_is_closed(
    tmp_path: Path, when: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    project = tiny_project(tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(project), when], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    store = Store(project / "artifacts")
    (first,) = states(store.root).items()
    assert first[1] == "RUNNING"
    second = run_pipeline(Execution(graph(project, node("a", "numbers", count=2)), store, threads=1))
    assert states(store.root) == {first[0]: state, second.run.id: "COMPLETED"}
