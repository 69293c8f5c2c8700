"""What runs inside a child process: build the arguments, run the task, save what it returns.

Light on purpose, and nothing of `tasks` at the top: children import `tasks` from the run's snapshot, never from the
checkout. Messages to the parent are tuples: ("progress", done, total, unit), ("notice", text), ("alive",), and one of
("done", Result), ("refused", class name, text), ("failed", last line). Between jobs the parent may send `REST`; the
answer is ("rests", whether that worked).
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from flows.run.executors.job import Input, Job, Result, Seat
from flows.run.executors.workspace import RankWorkspace, StepWorkspace

WHERE_SIGNAL = signal.SIGUSR1
"""Makes a child print where it is."""
REST = "rest"
ENGINES = "tasks.sampling.requests"
"""The module whose `rest()` frees what its engine can make again quickly."""


def worker_main(connection: Connection, snapshot: str) -> None:
    """Serve jobs until the parent closes the connection, or dies."""
    os.setsid()
    faulthandler.register(WHERE_SIGNAL, all_threads=False)
    Thread(target=_die_with_parent, daemon=True).start()
    sys.path.insert(0, snapshot)
    _register_packages(Path(snapshot))
    lock = Lock()

    def send(*message: Any) -> None:
        with lock:
            connection.send(message)

    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        if message == REST:
            send("rests", _rest())
            continue
        job, seat = message
        _redirect(seat.log_of(job.log))
        seat.apply()
        send(*_run(job, send, seat))


def _register_packages(snapshot: Path) -> None:
    """Let `tasks` know the choices and data files of a user's packages."""
    from tasks.contract import EXTENSIONS

    EXTENSIONS.update({folder.name: folder for folder in snapshot.iterdir() if folder.name != "tasks"})


def _die_with_parent() -> None:
    """The sentinel is ready when the real parent's end of a pipe closes, however the parent ends."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


def _redirect(log: Path) -> None:
    """Send the output of this process, and of what it starts, to `log`; their input is empty."""
    sys.stdout.flush()
    sys.stderr.flush()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, open(os.devnull, "rb") as nothing:
        for source, stream in ((output, 1), (output, 2), (nothing, 0)):
            os.dup2(source.fileno(), stream)


def _rest() -> bool:
    """Free what can be made again quickly. A process that holds no engine of this kind has nothing to free."""
    rest = getattr(sys.modules.get(ENGINES), "rest", None)
    try:
        if rest:
            rest()
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        return False
    return True


def _run(job: Job, send: Callable[..., None], seat: Seat) -> tuple[Any, ...]:
    from tasks.contract import DataError, SpecError, Waiting

    try:
        if seat.rank:
            assist(job, send, seat.rank)
            return "done", None
        return "done", perform(job, send)
    except (SpecError, DataError, Waiting) as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr, flush=True)
        known = next(c for c in (SpecError, DataError, Waiting) if isinstance(e, c))  # of a class derived from it, too
        return "refused", known.__name__, str(e)
    except BaseException as e:
        traceback.print_exc()
        sys.stderr.flush()
        return "failed", traceback.format_exception_only(e)[-1].strip()
    finally:
        sys.stdout.flush()


def perform(job: Job, send: Callable[..., None]) -> Result:
    """Run the task of `job` in this process and save its result below `job.folder`."""
    from tasks.kinds import Artifact

    start = time.monotonic()
    work = StepWorkspace(job.folder, send, job.answers)
    result = _call(job, work)
    if not isinstance(result, Artifact):
        raise TypeError(f"{job.module}.{job.task} returned {type(result).__name__}, which is no kind")
    if result._path is None:
        result.save(work.output)
    path = (result._path or work.output).absolute()
    seconds = time.monotonic() - start
    return Result(type(result).__name__, path, result.digest, seconds, work.totals, work.curves(), work.notices)


def assist(job: Job, send: Callable[..., None], rank: int) -> None:
    """Run the task of `job` as one of its other ranks, whose result is not used."""
    work = RankWorkspace(job.folder, rank, send, job.answers)
    try:
        _call(job, work)
    finally:
        shutil.rmtree(work.output, ignore_errors=True)


def _call(job: Job, work: StepWorkspace | RankWorkspace) -> Any:
    task = getattr(import_module(job.module), job.task)
    return task(**_handles(job), **_arguments(job), **({"work": work} if job.work else {}))


def _handles(job: Job) -> dict[str, Any]:
    opened = {port: [_handle(i) for i in inputs] for port, inputs in job.inputs.items()}
    return {port: handles if port in job.lists else handles[0] for port, handles in opened.items()}


def _handle(opened: Input) -> Any:
    from tasks.kinds import KINDS

    handle: Any = KINDS[opened.kind](opened.path, opened.digest)
    if opened.opened_by:
        handle.opened_by = opened.opened_by
    if opened.members:
        handle.attach({role: [_handle(one) for one in several] for role, several in opened.members.items()})
    if opened.execution:
        handle.execution = opened.execution
    return handle


def _arguments(job: Job) -> dict[str, Any]:
    """The parameters, those of a group as its dataclass, whose lists are tuples."""
    arguments = dict(job.params)
    for name, (module, dataclass_name) in job.groups.items():
        group = getattr(import_module(module), dataclass_name)
        values = {f.name: arguments.pop(f.name) for f in fields(group)}
        arguments[name] = group(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})
    return arguments
