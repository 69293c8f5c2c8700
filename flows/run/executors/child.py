"""One child process of a run's forkserver, and what its end means."""

from __future__ import annotations

import io
import os
import signal
from contextlib import suppress
from multiprocessing import context, forkserver, popen_forkserver, reduction, spawn, util
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import psutil

from flows.run.executors import worker
from flows.run.executors.job import Job, Seat

END_SECONDS = 5.0
"""How long a child may take to end by itself."""


class Child:
    """A process in a session of its own, which runs one job after another."""

    def __init__(self, server: forkserver.ForkServer, name: str, snapshot: Path, folder: Path) -> None:
        """`name`: of its first task; `folder` is where it runs."""
        self.connection, theirs = Pipe()
        process = context.ForkServerProcess(target=worker.worker_main, name=name, args=(theirs, str(snapshot)))
        self._popen = _Popen(process, server, folder)
        self._ended = False
        theirs.close()

    def send(self, message: tuple[Job, Seat] | str) -> None:
        """Nothing happens where the child has died: its next message says so."""
        with suppress(OSError):
            self.connection.send(message)

    def receive(self) -> tuple[Any, ...]:
        """Its next message; ("died",) where there will be none."""
        try:
            message: tuple[Any, ...] = self.connection.recv()
        except (EOFError, OSError):  # the latter also where `close` has closed it for a run that is stopped
            return ("died",)
        return message

    def how_it_died(self) -> str:
        """`was killed by SIGKILL (out of memory?)`, `ended with code 7`."""
        code = self._popen.wait(END_SECONDS)
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code}"
        return how + (" (out of memory?)" if code == -signal.SIGKILL else "")

    def state(self) -> str:
        """What the process does now: `running`, `sleeping` where it waits, `stopped` by a signal."""
        try:
            return str(psutil.Process(self._popen.pid).status())
        except psutil.NoSuchProcess:
            return "gone"

    def print_where_it_is(self) -> None:
        """Let it print the stack of its main thread to its log, if it is not stopped."""
        with suppress(ProcessLookupError):
            os.kill(self._popen.pid, worker.WHERE_SIGNAL)

    def kill(self) -> None:
        """Kill the child and all that it started. Once it has ended, its number may be that of another process."""
        if self._ended:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # before its setsid there is no group of its own yet
            os.kill(self._popen.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let the child end by itself, then kill what is left of its session."""
        self.connection.close()
        if self._ended:
            return
        self._popen.wait(END_SECONDS)
        self.kill()
        self._popen.wait(END_SECONDS)
        self._ended = True
        self._popen.close()


class _Popen(popen_forkserver.Popen):
    """`multiprocessing`'s own, but for a given forkserver, and without importing the parent's `__main__` again."""

    def __init__(self, process: context.ForkServerProcess, server: forkserver.ForkServer, folder: Path) -> None:
        self._server, self._folder = server, folder
        super().__init__(process)

    def _launch(self, process_obj: Any) -> None:
        prepared = spawn.get_preparation_data(process_obj._name)
        for key in ("init_main_from_path", "init_main_from_name"):
            prepared.pop(key, None)
        prepared["dir"] = str(self._folder)
        buffer = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(prepared, buffer)
            reduction.dump(process_obj, buffer)
        finally:
            context.set_spawning_popen(None)
        self.sentinel, w = self._server.connect_to_new_process(self._fds)  # type: ignore[attr-defined]
        parent_w = os.dup(w)  # its closing, however this process ends, is the child's sentinel
        self.finalizer = util.Finalize(self, util.close_fds, (parent_w, self.sentinel))  # type: ignore[attr-defined]
        with open(w, "wb", closefd=True) as pipe:
            pipe.write(buffer.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)
