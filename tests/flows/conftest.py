"""Fixtures of all tests of `flows`: a store, a tree of tasks to edit, one Prefect server for the whole session."""

import os
import signal
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.run.prefect.password import password_of_this_process
from flows.run.prefect.server import Server
from flows.store.store import Store

_locks = tempfile.TemporaryDirectory(prefix="alignflow-locks-")
os.environ["ALIGNFLOW_LOCKS"] = _locks.name  # no test waits for the heavy work of others on this machine
os.environ["PREFECT_API_AUTH_STRING"] = password_of_this_process()  # before Prefect is imported, which reads it then
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for what runs in the background, and
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup this one; what is started here would inherit that


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Shared by all tests that only need one: starting a server takes six seconds of processor time."""
    folder = tmp_path_factory.mktemp("prefect")
    running = Server(folder, log=folder / "server.log")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def server(prefect_server: Server) -> str:
    """The address of the shared server."""
    return prefect_server.url


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Write files below `tasks/`, named with `__` for folders (`losses__dpo="…"`); returns the root."""

    def write(**files: str) -> Path:
        for name, text in {"__init__": "", **files}.items():
            file = tmp_path / "tasks" / (name.replace("__", "/") if name != "__init__" else name)
            file = file.with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        return tmp_path

    return write
