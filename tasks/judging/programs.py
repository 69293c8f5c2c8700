"""A user's program in processes of its own: what it is made of, and a pool that asks it.

The files are copied into a folder of their own before anything runs, so that what runs is what the key holds, and
what is not in the key cannot be imported. The limits protect a run against a faulty program, not a machine against a
hostile one: a program runs with the rights of the user.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from blake3 import blake3

from tasks.contract import DataError
from tasks.ids import digest
from tasks.judging.program_child import OUTPUT, answer_questions
from tasks.judging.program_files import ProgramFiles

UNKEYED = {
    "os.environ": "where commands and the names of languages are looked up, on which programs should not depend",
    "__code__": "the place of the child's code, which is in the key",
}

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
"""Environment variables that a program sees. All others, API keys among them, it does not."""
_OWN = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8",
}  # fmt: skip
IMPORT_SECONDS = 60.0
"""Time in which a program must have been imported."""
_GRACE = 10.0
"""Seconds beyond the limit of an answer after which the process that watches it is given up, too."""
_GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """What one answer of a program may take."""

    seconds: float
    """Wall time."""
    memory: float
    """Address space, GiB."""


class Verdict(NamedTuple):
    """What came of one question."""

    value: float | None
    """None: the program gave no answer, or failed."""
    failure: str = ""
    """Why it failed; empty where it did not."""
    output: str = ""
    """The end of what a failing program printed."""
    seconds: float = 0.0


class ProgramPool:
    """Several processes that answer questions by a program; each is started when it is first needed."""

    def __init__(self, files: ProgramFiles, limits: Limits, workers: int) -> None:
        self._folder = TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True)
        self._place = _copied(files, Path(self._folder.name) / "files")
        self.content = _digest(self._place.parent)
        """Digest of the copied files."""
        self._name, self._limits, self._workers = files.name, limits, workers
        self._threads = ThreadPoolExecutor(workers, "program")
        self._own = threading.local()
        self._children: list[_Child] = []
        self._finalizer = weakref.finalize(self, _close, self._children, self._threads, self._folder)

    def verdicts(self, questions: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Verdict]]:
        """(number, verdict) of each question, as they come.

        Raises DataError where the program cannot be imported at all.
        """
        waiting = {self._threads.submit(self._verdict, question): i for i, question in enumerate(questions)}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            for one in waiting:
                one.cancel()

    def close(self) -> None:
        """End all processes, and remove the copies."""
        self._finalizer()

    def _verdict(self, question: Mapping[str, Any]) -> Verdict:
        begun = time.monotonic()
        verdict = self._process().ask(question, self._limits.seconds + _GRACE)
        return verdict._replace(seconds=time.monotonic() - begun)

    def _process(self) -> _Child:
        """The process of this thread, a new one after a crash."""
        process: _Child | None = getattr(self._own, "process", None)
        if process is None or not process.is_alive:
            folder = Path(self._folder.name) / f"process-{threading.get_ident()}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            process = self._own.process = _Child(self._place, self._name, self._limits, folder)
            self._children.append(process)
            process.wait_until_ready()
        return process


def _copied(files: ProgramFiles, folder: Path) -> Path:
    """Copy the program's files, readable only. Returns the place of its main file."""
    for name, path in files.all.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(path, target) if path.is_dir() else shutil.copyfile(path, target)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    return folder / files.main


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest(*(f"{path.relative_to(folder)} {blake3(path.read_bytes()).hexdigest(16)}" for path in files))


def _close(children: list[_Child], threads: ThreadPoolExecutor, folder: TemporaryDirectory[str]) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    for process in children:
        process.end()
    folder.cleanup()


class _Child:
    """A process that imported the program and forks for each question: see `program_child`."""

    def __init__(self, file: Path, name: str, limits: Limits, folder: Path) -> None:
        passed_on = {n: os.environ[n] for n in _PASSED_ON if n in os.environ}
        script = answer_questions.__code__.co_filename
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-B", script, str(file), name, repr(limits.seconds),
             str(int(limits.memory * _GIB))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder, close_fds=True,
            start_new_session=True, env={**passed_on, **_OWN, "HOME": str(folder), "TMPDIR": str(folder)},
        )  # fmt: skip

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Raises DataError where the program cannot be imported."""
        reason = self._why_not_ready()
        if reason:
            self.end()
            printed = self._folder / "output.txt"
            tail = printed.read_bytes()[-OUTPUT:].decode(errors="replace").strip() if printed.exists() else ""
            raise DataError(f"the program cannot be imported: {reason}" + (f"\n{tail}" if tail else ""))

    def _why_not_ready(self) -> str:
        try:
            return str(self._line(IMPORT_SECONDS).get("failure", ""))
        except TimeoutError:
            return f"this took longer than {IMPORT_SECONDS:g} s"
        except EOFError:
            return "this ended its process"

    def ask(self, question: Mapping[str, Any], seconds: float) -> Verdict:
        """The program's answer; a failure where this process ends, or sends nothing for so long."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            message = self._line(seconds)
        except TimeoutError:
            return self._given_up(f"no answer came in {seconds:g} s")
        except (EOFError, OSError):
            return self._given_up("it ended the process that watches it")
        return Verdict(message.get("value"), message.get("failure", ""), message.get("output", ""))

    def _given_up(self, why: str) -> Verdict:
        self.end()
        return Verdict(None, why)

    def _line(self, seconds: float) -> dict[str, Any]:
        """The next message. Raises TimeoutError where none comes in time, EOFError where none ever will."""
        assert self._process.stdout is not None
        until, stream, line = time.monotonic() + seconds, self._process.stdout.fileno(), b""
        while not line.endswith(b"\n"):
            if not select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            if not (data := os.read(stream, 65536)):
                raise EOFError
            line += data
        return dict(json.loads(line))

    def end(self) -> None:
        """Kill the process and all below it."""
        import psutil

        try:
            below = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.Error:
            below = []
        self._process.kill()
        for process in below:
            with suppress(psutil.Error):
                process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
