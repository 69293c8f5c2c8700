"""What runs inside a child process: build the arguments, run the task, save what it returns.

Light on purpose, and nothing of `tasks` at the top: children import `tasks` from the run's snapshot, never from the
checkout. Messages to the parent are tuples: ("progress", done, total, unit), ("notice", text), and one of
("done", Result), ("refused", class name, text), ("failed", last line).
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from importlib import import_module
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Lock, Thread
from typing import Any

PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class Input:
    """An artifact in the store, as a child opens it."""

    kind: str
    path: Path
    digest: str
    base: Input | None = None
    """The model that it is an adapter of."""


@dataclass(frozen=True)
class Job:
    """One call of a task, complete: nothing else is read from the parent."""

    module: str
    task: str
    inputs: Mapping[str, tuple[Input, ...]]
    lists: frozenset[str]
    """Ports that take a list; the others get the one handle."""
    params: Mapping[str, Any]
    """Parameters and execution parameters; a choice is a `tasks.contract.Chosen`."""
    folder: Path
    """`artifacts/partial/<key>`: survives a kill."""
    log: Path
    work: bool = False
    """Whether the task asks for `work: Workspace`."""
    groups: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Arguments that are dataclasses, by module and name; `params` has their fields."""


@dataclass(frozen=True)
class Result:
    """What a task made. `path` lies inside the job's folder, or is a folder of the user that is only referred to."""

    kind: str
    path: Path
    digest: str = ""
    """Set where the task returned one of its inputs."""
    seconds: float = 0.0
    """Of the task alone: no waiting, no fork."""
    totals: Mapping[str, float] = field(default_factory=dict)
    curves: tuple[Mapping[str, float], ...] = ()
    notices: tuple[str, ...] = ()


def worker_main(connection: Connection, snapshot: str) -> None:
    """Serve jobs until the parent closes the connection, or dies."""
    os.setsid()
    Thread(target=_die_with_parent, daemon=True).start()
    sys.path.insert(0, snapshot)
    _register_packages(Path(snapshot))
    lock = Lock()

    def send(*message: Any) -> None:
        with lock:
            connection.send(message)

    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        _redirect(job.log)
        send(*_run(job, send))


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


def _run(job: Job, send: Callable[..., None]) -> tuple[Any, ...]:
    from tasks.contract import DataError, SpecError

    try:
        return "done", perform(job, send)
    except (SpecError, DataError) as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr, flush=True)
        return "refused", type(e).__name__, str(e)
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
    work = StepWorkspace(job.folder, send)
    task = getattr(import_module(job.module), job.task)
    result = task(**_handles(job), **_arguments(job), **({"work": work} if job.work else {}))
    if not isinstance(result, Artifact):
        raise TypeError(f"{job.module}.{job.task} returned {type(result).__name__}, which is no kind")
    if result._path is None:
        result.save(work.output)
    path = (result._path or work.output).absolute()
    seconds = time.monotonic() - start
    return Result(type(result).__name__, path, result.digest, seconds, work.totals, work.curves(), work.notices)


def _handles(job: Job) -> dict[str, Any]:
    opened = {port: [_handle(i) for i in inputs] for port, inputs in job.inputs.items()}
    return {port: handles if port in job.lists else handles[0] for port, handles in opened.items()}


def _handle(opened: Input) -> Any:
    from tasks.kinds import KINDS

    handle: Any = KINDS[opened.kind](opened.path, opened.digest)
    if opened.base:
        handle.base = _handle(opened.base)
    return handle


def _arguments(job: Job) -> dict[str, Any]:
    """The parameters, those of a group as its dataclass, whose lists are tuples."""
    arguments = dict(job.params)
    for name, (module, dataclass_name) in job.groups.items():
        group = getattr(import_module(module), dataclass_name)
        values = {f.name: arguments.pop(f.name) for f in fields(group)}
        arguments[name] = group(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})
    return arguments


class StepWorkspace:
    """The `tasks.contract.Workspace` of one attempt. Everything lies in `artifacts/partial/<key>`:
    `work/` and `curves.jsonl` survive a kill, `output/` is made anew."""

    def __init__(self, folder: Path, send: Callable[..., None]) -> None:
        self.path = folder / "work"
        self.output = folder / "output"
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir()
        self.totals: dict[str, float] = {}
        self.notices: tuple[str, ...] = ()
        self._send = send
        self._reported = 0.0
        self._file = folder / "curves.jsonl"
        self._earlier = self._read_rows()
        self._own: list[dict[str, float]] = []

    def progress(self, done: float, total: float, unit: str = "") -> None:
        now = time.monotonic()
        if now - self._reported >= PROGRESS_SECONDS or done >= total:
            self._reported = now
            self._send("progress", float(done), float(total), unit)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if any(row["step"] >= step for row in self._earlier):
            self._earlier = [row for row in self._earlier if row["step"] < step]
            _write_rows(self._file, [*self._earlier, *self._own])
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        self._own.append(row)
        with self._file.open("ab") as file:
            file.write(_line(row))

    def count(self, **metrics: float) -> None:
        for name, value in metrics.items():
            self.totals[name] = self.totals.get(name, 0) + value

    def notice(self, text: str) -> None:
        self.notices += (text,)
        self._send("notice", text)

    def curves(self) -> tuple[Mapping[str, float], ...]:
        """All rows, those of earlier attempts first."""
        return (*self._earlier, *self._own)

    def _read_rows(self) -> list[dict[str, float]]:
        """Rows of earlier attempts as they were written. A kill may have cut the last one, which no file needs."""
        from tasks.digests import without_digest

        lines = self._file.read_bytes().splitlines(keepends=True) if self._file.exists() else []
        rows: list[Any] = []
        for line in lines:
            with suppress(ValueError):
                rows.append(without_digest(line))
        if damaged := sum(line.endswith(b"\n") for line in lines) - len(rows):
            self.notice(f"{damaged} rows of the curves of an earlier attempt were damaged and are missing")
        if len(rows) < len(lines):
            _write_rows(self._file, rows)
        return rows


def _line(row: dict[str, float]) -> bytes:
    from tasks.digests import with_digest

    return with_digest(dict(row))


def _write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    from tasks.files import atomic_replace

    with atomic_replace(path) as fresh:
        fresh.write_bytes(b"".join(map(_line, rows)))
