"""Commands: in this process where that is enough, else as processes of their own, as a user starts and ends them."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import psutil
from rich.console import Console

from flows.cli import main
from flows.system.modes import own_umask

ROOT = Path(__file__).parents[3]
SECONDS = 150.0
"""How long anything may take on a busy machine."""


def place(**more: str) -> dict[str, str]:
    """The environment without the addresses of a user's servers and stores."""
    foreign = ("PREFECT_", "MLFLOW_", "ALIGNFLOW_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}


def command(name: str, *arguments: str, cwd: Path, code: int | None = 0, **env: str) -> str:
    """What `alignflow` (or `prefect`) prints, once it has ended with `code`."""
    module = {"alignflow": "flows.cli", "prefect": "prefect"}[name]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=cwd, env=place(**env), capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    message = done.stdout + done.stderr
    assert code is None or done.returncode == code, message
    if name == "alignflow":
        assert "Traceback" not in message
    return message


class Answer(NamedTuple):
    """What a command wrote."""

    stdout: str
    stderr: str


def alignflow(*arguments: str, cwd: Path = ROOT, code: int = 0, **env: str) -> Answer:
    """What `alignflow` answers in this process, which is right for what starts no run."""
    out, err = io.StringIO(), io.StringIO()
    variables, argv, ended = place(**env), ["alignflow", *arguments], 0
    with (
        own_umask(), chdir(cwd), patch.dict(os.environ, variables, clear=True), patch.object(sys, "argv", argv),
        redirect_stdout(out), redirect_stderr(err),
    ):  # fmt: skip
        try:
            main()
        except SystemExit as e:
            ended = int(e.code or 0)
    assert ended == code, out.getvalue() + err.getvalue()
    return Answer(out.getvalue(), err.getvalue())


def printed(show: Callable[[Console], object], width: int = 160) -> str:
    """The text that `show` prints on a console."""
    console = Console(file=io.StringIO(), width=width)
    show(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


NO_WAY_OUT = {"HTTP_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
"""A proxy that is not there: whatever is sent through it fails."""


class Started:
    """A command that runs until it gets a signal."""

    def __init__(self, *arguments: str, cwd: Path, log: Path, **env: str) -> None:
        self._log = log
        with log.open("w") as output:
            self.process = psutil.Popen(
                [sys.executable, "-u", "-m", "flows.cli", *arguments], cwd=cwd, env=place(**env), stdout=output,
                stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        """Until its output contains the text."""
        wait_until(lambda: text in self.output or not self.process.is_running(), lambda: self.output)
        assert text in self.output, self.output

    def everything(self) -> list[psutil.Process]:
        """It, what it started, and what that started."""
        return [self.process, *self.process.children(recursive=True)]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait, and return the exit code."""
        self.process.send_signal(number)
        return int(self.process.wait(SECONDS))


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them is left after ten seconds."""
    return not psutil.wait_procs(processes, 10)[1]


@contextmanager
def started(*arguments: str, cwd: Path, log: Path, **env: str) -> Iterator[Started]:
    """A command that is killed with the block, and everything that it started, if it has not ended before."""
    running = Started(*arguments, cwd=cwd, log=log, **env)
    try:
        yield running
    finally:
        for process in running.everything() if running.process.is_running() else []:
            process.kill()


def wait_until(true: object, message: object = str) -> None:
    """Until `true()`; then AssertionError with `message()`."""
    end = time.monotonic() + SECONDS
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, message()  # type: ignore[operator]
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
