"""The process in which a user's program runs. It imports the program once, and forks for each answer.

`tasks.judging.programs` starts it as a script, in a clean interpreter; standard library only. Each answer is a process
of its own, in a group and an empty folder of its own, and begins in the state right after the import: what a program
does to its globals, threads, files or subprocesses reaches no other answer. Its output is captured, so that nothing
that it prints can be taken for a message.

Messages are lines of JSON. In: {"prompt": …, "completion": …, "truth": …}. Out: first {"ready": true} or a failure;
then, for each line in, {"value": number or null} or {"failure": reason, "output": the end of what was printed}.
"""

import ctypes
import importlib.util
import json
import math
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

UNKEYED = {
    "importlib.util.spec_from_file_location": "the program is in the key by the content of its files",
    "importlib.util.module_from_spec": "the same",
    "/proc/self/task": "the processes that an answer left behind",
    "sys.path": "it begins with the copy of the program's files, whose content is in the key",
    "os.environ": "the folder of an answer, which is empty",
    "sys.argv": "what the parent process gives: limits, which are in the key, and the place of the copies",
    "sys.modules": "the program's own module, whose content is in the key",
}

OUTPUT = 2000
"""Bytes of a program's output that are kept: the last ones."""
_ROUNDS = 100
"""How often this process looks for others that were left behind, each time one level deeper."""
_SUBREAPER, _DEATH_SIGNAL = 36, 1
"""Numbers of Linux's prctl: orphans below this process become its children; a signal when its parent ends."""


def answer_questions() -> None:
    """Import the program, then answer questions until the input ends."""
    file, name, seconds, memory = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    questions, messages = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _control(_SUBREAPER, 1)
    _control(_DEATH_SIGNAL, signal.SIGKILL)
    _redirect(os.open(os.devnull, os.O_RDWR), os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    function = _imported(file, name, messages)
    kept = _children()
    _send(messages, {"ready": True})
    for number, line in enumerate(questions):
        folder = Path(f"answer-{number}").absolute()
        folder.mkdir()
        _send(messages, _answer(function, json.loads(line), seconds, folder, file.parent, (questions, messages)))
        _end_all_but(kept)
        shutil.rmtree(folder, ignore_errors=True)


def _control(option: int, value: int) -> None:
    """Set a property of this process, where the C library has prctl."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(option, value, 0, 0, 0)


def _redirect(source: int, output: int) -> None:
    """Give this process other standard streams."""
    for target, stream in ((0, source), (1, output), (2, output)):
        os.dup2(stream, target)
    for stream in {source, output} - {0, 1, 2}:
        os.close(stream)


def _send(messages: BinaryIO, message: dict[str, Any]) -> None:
    messages.write(json.dumps(message).encode() + b"\n")
    messages.flush()


def _imported(file: Path, name: str, messages: BinaryIO) -> Callable[..., Any]:
    """The program's function. A program that cannot be imported is reported, and this process ends."""
    sys.path.insert(0, str(file.parent))
    try:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module
        spec.loader.exec_module(module)
        function: Callable[..., Any] = getattr(module, name)
        if not callable(function):
            raise TypeError(f"{name} is not a function")
        return function
    except BaseException as e:
        sys.stdout.flush()
        traceback.print_exc()
        _send(messages, {"failure": _reason(e, file.parent)})
        os._exit(1)


def _answer(
    function: Callable[..., Any], question: dict[str, Any], seconds: float, folder: Path, home: Path,
    inherited: tuple[BinaryIO, ...],
) -> dict[str, Any]:  # fmt: skip
    """What a process of its own makes of a question, at most `seconds` later."""
    (result, write), (printed, output) = os.pipe(), os.pipe()
    process = os.fork()
    if process == 0:
        for stream in (*(one.fileno() for one in inherited), result, printed):
            os.close(stream)
        _run(function, question, folder, home, write, output)
    os.close(write)
    os.close(output)
    with suppress(OSError):  # it has done so itself, or has ended
        os.setpgid(process, process)
    line, tail, in_time = _watched(process, result, printed, time.monotonic() + seconds)
    _end_group(process)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    tail = (tail + _rest(printed))[-OUTPUT:]
    os.close(result)
    os.close(printed)
    return _message(line, tail, code, "" if in_time else f"it took longer than {seconds:g} s")


def _watched(process: int, result: int, printed: int, until: float) -> tuple[bytes, bytes, bool]:
    """The line that a process writes, the end of what it prints, and whether it ended, or wrote its line, in time."""
    line, tail, ended = b"", b"", os.pidfd_open(process)
    try:
        streams = {result, printed, ended}
        while not line.endswith(b"\n"):
            left = until - time.monotonic()
            ready = select.select(streams, [], [], left)[0] if left > 0 else []
            if not ready:
                return b"", tail, False
            for stream in {result, printed} & set(ready):
                data = os.read(stream, 65536)
                if not data:
                    streams.discard(stream)
                line, tail = (line + data, tail) if stream == result else (line, (tail + data)[-OUTPUT:])
            if ready == [ended]:
                break
        return line, tail, True
    finally:
        os.close(ended)


def _rest(stream: int) -> bytes:
    """What a stream still holds; its writers have ended, or never will."""
    os.set_blocking(stream, False)
    data = b""
    with suppress(OSError):
        while more := os.read(stream, 65536):
            data = (data + more)[-OUTPUT:]
    return data


def _message(line: bytes, tail: bytes, code: int, late: str) -> dict[str, Any]:
    printed = tail.decode(errors="replace")
    try:
        message = dict(json.loads(line))
    except ValueError:
        how = f"was ended by the signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return {"failure": late or f"its process {how} before it returned", "output": printed}
    return message if "value" in message else {**message, "output": printed}


def _run(
    function: Callable[..., Any], question: dict[str, Any], folder: Path, home: Path, write: int, output: int
) -> None:
    """Call the program and write its result, as a process that never returns."""
    me = os.getpid()
    try:
        _enter(folder, output)
        message = _called(function, question, home)
        sys.stdout.flush()
        sys.stderr.flush()
        if os.getpid() == me:  # a program may fork: its copies say nothing
            os.write(write, json.dumps(message).encode() + b"\n")
    finally:
        os._exit(0)


def _enter(folder: Path, output: int) -> None:
    os.setpgid(0, 0)
    _control(_DEATH_SIGNAL, signal.SIGKILL)
    _redirect(os.open(os.devnull, os.O_RDWR), output)
    os.chdir(folder)
    os.environ.update(TMPDIR=str(folder), HOME=str(folder))
    tempfile.tempdir = None
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _called(function: Callable[..., Any], question: dict[str, Any], home: Path) -> dict[str, Any]:
    try:
        return _result(function(question["prompt"], question["completion"], question["truth"]))
    except BaseException as e:
        with suppress(BaseException):  # the program may have closed its output
            traceback.print_exc()
        traceback.clear_frames(e.__traceback__)  # what they hold may be all the memory that there is
        return {"failure": _reason(e, home)}


def _result(value: Any) -> dict[str, Any]:
    """A program's value as a message: a finite number, also one of NumPy, a truth value, or None for no answer."""
    if value is None:
        return {"value": None}
    plain = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    if not isinstance(plain, bool | int | float):
        return {"failure": f"it returned a {type(value).__name__}, not a number, a truth value or None"}
    number = float(plain)
    return {"value": number} if math.isfinite(number) else {"failure": f"it returned {number}"}


def _reason(error: BaseException, home: Path) -> str:
    """The exception in one line, with the line of the program's own files in which it was raised."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")[:300]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(home)]
    return f"{text} ({Path(frames[-1].filename).relative_to(home)}, line {frames[-1].lineno})" if frames else text


def _end_group(process: int) -> None:
    with suppress(OSError):
        os.killpg(process, signal.SIGKILL)


def _children() -> set[int]:
    """The processes whose parent this one is, orphans included."""
    files = Path("/proc/self/task").glob("*/children")
    return {int(number) for file in files for number in file.read_text().split()}


def _end_all_but(kept: set[int]) -> None:
    """End the processes that an answer left behind, and those that these leave behind."""
    for _ in range(_ROUNDS):
        left = _children() - kept
        for process in left:
            _end_group(process)
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
        if not left:
            return


if __name__ == "__main__":
    answer_questions()
