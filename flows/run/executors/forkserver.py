"""Child processes: every task runs in one, so its memory returns when the step ends and the main process stays light.

All children of a run are forked from one forkserver that imported what they need (never CUDA). Each has a session of
its own, prints to a file, and dies with the main process. One heavy child runs at a time on a machine; one that keeps
a model loaded stays alive for the next step that wants the same model, until another heavy step needs the slot.
"""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import context, forkserver, popen_forkserver, reduction, spawn, util
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

from flows.run.executors import worker as child
from flows.run.executors.base import Events, StepFailed, Stopped
from flows.run.executors.slots import HeavySlot
from flows.run.executors.worker import Job, Result
from flows.system.disk import full, is_full
from flows.system.environment import environment, python_path
from flows.system.locks import Waiting
from tasks.contract import DataError, SpecError

REFUSALS: dict[str, type[ValueError]] = {"SpecError": SpecError, "DataError": DataError}

TakeSlot = Callable[..., AbstractContextManager[object]]
"""Takes the machine's heavy slot: `Store.slot`, called with `waiting`."""


def default_threads() -> int:
    """Threads of a heavy child: a setting, never derived from the load, because gradient bits depend on it."""
    threads = os.environ.get("ALIGNFLOW_THREADS") or os.environ.get("OMP_NUM_THREADS")
    return int(threads) if threads else len(os.sched_getaffinity(0))


class Workers:
    """The forkserver of one run and the children forked from it. Safe to use from many threads."""

    def __init__(
        self, snapshot: Path, log: Path, slot: TakeSlot, *, folder: Path | None = None, threads: int | None = None
    ) -> None:
        """`folder` is where children run, `log` what the forkserver prints."""
        self.threads = threads or default_threads()
        self._snapshot = snapshot
        self._folder = folder or Path.cwd()
        self._log = log
        self._server = forkserver.ForkServer()
        self._children: set[Child] = set()
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self._light = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))
        """Bounds the children outside of the heavy slot."""
        self._heavy: HeavySlot[Child] = HeavySlot(slot, self._end, self.stopped)

    def start(self, packages: list[str]) -> None:
        """Start the forkserver; it imports `packages` while this process goes on."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._server.set_forkserver_preload(["flows.run.executors.preload"])
        settings = {
            "ALIGNFLOW_PRELOAD": " ".join(packages),
            "ALIGNFLOW_PRELOAD_LOG": str(self._log),
            "ALIGNFLOW_PRELOAD_PARENT": str(os.getpid()),
            "PYTHONPATH": python_path(),
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "KMP_BLOCKTIME": "0",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with environment(settings):
            self._server.ensure_running()

    def submit(
        self, job: Job, events: Events, *, exclusive: bool = False, affinity: str = "", order: int = 0,
        waiting: Waiting | None = None, check: Callable[[], None] = lambda: None,
    ) -> Result:  # fmt: skip
        if exclusive:
            return self._alone(job, events, affinity, order, waiting, check)
        with self._light:
            worker = self._new(job.task)
            try:
                result = worker.run(job, events)
            finally:
                self._end(worker)
        check()
        return result

    def _alone(
        self, job: Job, events: Events, affinity: str, order: int, waiting: Waiting | None, check: Callable[[], None]
    ) -> Result:
        """In the machine's heavy slot. A child whose work `check` refuses does not stay warm."""
        worker = self._heavy.enter(affinity, order, waiting)
        keep = None
        try:
            worker = worker or self._new(job.task)
            result = worker.run(job, events)
            check()
            keep = worker if affinity else None
            return result
        finally:
            if worker and not keep:
                self._end(worker)
            self._heavy.leave(keep, affinity)

    def stop(self) -> None:
        """Kill every child now; what waits or comes later raises Stopped."""
        self.stopped.set()
        with self._lock:
            children = list(self._children)
        for worker in children:
            worker.kill()
        self._heavy.wake()

    def close(self) -> None:
        """End warm children, give back the heavy slot, end the forkserver."""
        self._heavy.close()
        self.stop()
        for worker in list(self._children):
            self._end(worker)
        if pid := self._server._forkserver_pid:  # type: ignore[attr-defined]
            os.kill(pid, signal.SIGKILL)  # it has nothing to finish, and Python takes 1.5 s to unload torch
            self._server._stop()  # type: ignore[attr-defined]

    def _new(self, name: str) -> Child:
        if self.stopped.is_set():
            raise Stopped("the run is being stopped")
        worker = Child(self._server, name, self._snapshot, self._folder, self.stopped)
        with self._lock:
            self._children.add(worker)
        if self.stopped.is_set():
            worker.kill()
        return worker

    def _end(self, worker: Child) -> None:
        worker.close()
        with self._lock:
            self._children.discard(worker)


class Child:
    """One child process, in a session of its own; runs one job after another."""

    def __init__(
        self, server: forkserver.ForkServer, name: str, snapshot: Path, folder: Path, stopped: threading.Event
    ) -> None:
        self._stopped = stopped
        self._connection, theirs = Pipe()
        process = context.ForkServerProcess(target=child.worker_main, name=name, args=(theirs, str(snapshot)))
        self._popen = _Popen(process, server, folder)
        theirs.close()

    def run(self, job: Job, events: Events) -> Result:
        """Raises SpecError and DataError as the task did, StepFailed for anything else, Stopped after `kill`."""
        events("started")
        with self._lifeline(job):
            self._connection.send(job)
        while True:
            with self._lifeline(job):
                kind, *rest = self._connection.recv()
            if kind == "done":
                result: Result = rest[0]
                return result
            if kind == "refused":
                raise REFUSALS[rest[0]](rest[1])
            if kind == "failed":
                raise StepFailed(f"{rest[0]}\n  log: {job.log}")
            events(kind, *rest)

    @contextmanager
    def _lifeline(self, job: Job) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):  # the latter also where `close` has closed it for a run that is stopped
            raise self._died(job) from None

    def _died(self, job: Job) -> Exception:
        """Why the process is gone: the run was stopped, the disk is full (so that its log may be empty), or else."""
        if self._stopped.is_set():
            return Stopped("the run is being stopped")
        code = self._popen.wait(5)
        if is_full(job.log):
            return full(job.log.parent)
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return StepFailed(f"the process of '{job.task}' {how}{hint}\n  log: {job.log}")

    def kill(self) -> None:
        """Kill the child and all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # before its setsid there is no group of its own yet
            os.kill(self._popen.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let the child end by itself, then kill what is left of its session."""
        self._connection.close()
        self._popen.wait(5)
        self.kill()
        self._popen.wait(5)
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
