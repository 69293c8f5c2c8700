"""The processes of one job: its ranks, which work together, fail together and end together."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil

from flows.run.executors.base import Events, StepFailed, Stopped
from flows.run.executors.child import Child
from flows.run.executors.devices import locks_folder
from flows.run.executors.job import Job, Result, Seat
from flows.run.executors.worker import REST
from flows.system.disk import full, is_full
from tasks.contract import DataError, SpecError, Waiting

REFUSALS: dict[str, type[Exception]] = {"SpecError": SpecError, "DataError": DataError, "Waiting": Waiting}
"""What a task may raise that is no failure of its code, by the name in a rank's message."""
ENDINGS = ("refused", "died", "failed")
"""How a rank ends without a result. Of several that end at once the first of these is the cause of the others: a rank
that dies breaks the connections of the others, which fail then."""
SETTLING_SECONDS = 0.5
"""How long the ends of other ranks are awaited after the first one, to tell cause from consequence."""
LOOK_SECONDS = 1.0
"""How often it is checked whether ranks hang."""
REST_SECONDS = 60.0
"""How long a child may take to rest."""
OLD_SECONDS = 7 * 86400.0
"""Age from which a file at which ranks met is one that a killed run has left."""
SHOWN_LINES = 12
"""Last lines of a rank's log in the message of its failure."""
SHOWN_CALLS = 4
"""Innermost calls of each rank in the message of ranks that hang."""
_numbers = count()


class Team:
    """The child processes of a job, one for each rank. One that is kept runs several jobs, one after the other."""

    def __init__(
        self, children: Sequence[Child], seats: Sequence[Seat], timeout: float, stopped: threading.Event
    ) -> None:
        """`timeout`: seconds without a sign of life of any rank after which they hang; for a process alone, never."""
        self._children, self._seats, self._timeout, self._stopped = tuple(children), tuple(seats), timeout, stopped

    def run(self, job: Job, events: Events) -> Result:
        """Run a job. What ends one rank ends all.

        Raises SpecError, DataError and Waiting as the task did, StepFailed for anything else, Stopped after `kill`.
        """
        events("started")
        attempt = _Attempt(job, self._seats)
        with _rendezvous(len(self._seats)) as meeting:
            for child, seat in zip(self._children, self._seats, strict=True):
                child.send((job, replace(seat, rendezvous=meeting)))
            try:
                return self._await_result(attempt, events)
            except BaseException:
                if len(self._children) > 1:
                    self.kill()
                raise

    def rest(self) -> bool:
        """Free what can be made again quickly. Whether all children could."""
        for child in self._children:
            child.send(REST)
        return all(_rests(child) for child in self._children)

    def kill(self) -> None:
        """Kill every child and all that they started."""
        for child in self._children:
            child.kill()

    def close(self) -> None:
        """Let the children end by themselves, then kill what is left of them."""
        for child in self._children:
            child.connection.close()
        for child in self._children:
            child.close()

    def _await_result(self, attempt: _Attempt, events: Events) -> Result:
        """Pass on the events of rank 0 until all ranks are done."""
        running = dict(enumerate(self._children))
        signs = dict.fromkeys(running, time.monotonic())
        result: Result | None = None
        while running:
            for rank, message in _messages(running, LOOK_SECONDS):
                signs[rank] = time.monotonic()
                kind, *rest = message
                if kind in ENDINGS:
                    raise self._error(attempt, *_cause(running, rank, message))
                if kind == "done":
                    del running[rank]
                    result = rest[0] if rank == 0 else result
                elif rank == 0 and kind != "alive":
                    events(kind, *rest)
            if len(self._seats) > 1 and running and time.monotonic() - max(signs.values()) > self._timeout:
                raise self._hang(attempt, running, signs)
        assert result is not None
        return result

    def _error(self, attempt: _Attempt, rank: int, message: tuple[Any, ...]) -> Exception:
        """What a rank's end means: a refusal, a stopped run, a full disk, or the failure of the step."""
        kind, *rest = message
        if kind == "refused":
            return REFUSALS[rest[0]](rest[1] + (f" (rank {rank} of {len(self._seats)})" if rank else ""))
        if kind == "failed":
            return attempt.failure(rank, rest[0], f"failed: {rest[0]}")
        if self._stopped.is_set():
            return Stopped("the run is being stopped")
        how = self._children[rank].how_it_died()
        if is_full(attempt.job.log):  # so that its log may be empty
            return full(attempt.job.log.parent)
        return attempt.failure(rank, f"the process of '{attempt.job.task}' {how}", how)

    def _hang(self, attempt: _Attempt, running: Mapping[int, Child], signs: Mapping[int, float]) -> StepFailed:
        """The error of ranks that give no sign of life: of each, what its process does, and where it is."""
        silent = {rank: time.monotonic() - signs[rank] for rank in running}
        states = {rank: child.state() for rank, child in running.items()}
        for child in running.values():
            child.print_where_it_is()
        time.sleep(SETTLING_SECONDS)
        stopped = [f"rank {rank} is stopped" for rank, state in states.items() if state == psutil.STATUS_STOPPED]
        why = f" ({', '.join(stopped)})" if stopped else ""
        lines = [
            f"the {len(self._seats)} ranks of '{attempt.job.task}' hang{why}: none gave a sign of life for "
            f"{self._timeout:g} s, so all were ended"
        ]
        for rank, state in states.items():
            log = attempt.log_of(rank)
            lines.append(f"  rank {rank}: {state}, silent for {silent[rank]:.0f} s; log: {log}")
            lines += [f"    {line}" for line in _stack(log)]
        return StepFailed("\n".join(lines))


@dataclass(frozen=True)
class _Attempt:
    """One job with the logs of its ranks."""

    job: Job
    seats: Sequence[Seat]

    def log_of(self, rank: int) -> Path:
        return self.seats[rank].log_of(self.job.log)

    def failure(self, rank: int, alone: str, ranked: str) -> StepFailed:
        """The error of a step whose process `alone`, or whose rank, ended; with several, with the rank's last lines."""
        log = self.log_of(rank)
        if len(self.seats) == 1:
            return StepFailed(f"{alone}\n  log: {log}")
        lines = "".join(f"\n    {line}" for line in _last_lines(log))
        return StepFailed(f"rank {rank} of {len(self.seats)} of '{self.job.task}' {ranked}\n  log: {log}{lines}")


def _messages(running: Mapping[int, Child], seconds: float) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """One message of each rank that has sent any, as soon as one has, at the latest after some seconds."""
    ranks = {child.connection: rank for rank, child in running.items()}
    try:
        ready = wait(list(ranks), seconds)
    except (OSError, ValueError):  # `close` has closed them for a run that is stopped
        ready = list(ranks)
    for rank in sorted(ranks[connection] for connection in ready):  # type: ignore[index]
        yield rank, running[rank].receive()


def _cause(running: Mapping[int, Child], rank: int, message: tuple[Any, ...]) -> tuple[int, tuple[Any, ...]]:
    """Of the ranks that end together, the one whose end made the others end, and its message."""
    ends = {rank: message}
    until = time.monotonic() + SETTLING_SECONDS
    while len(ends) < len(running) and message[0] != ENDINGS[0] and (left := until - time.monotonic()) > 0:
        others = {r: child for r, child in running.items() if r not in ends}
        ends |= {r: m for r, m in _messages(others, left) if m[0] in ENDINGS}
    return min(ends.items(), key=lambda end: ENDINGS.index(end[1][0]))


def _rests(child: Child) -> bool:
    """Whether a child rests, after `REST` was sent to it."""
    end = time.monotonic() + REST_SECONDS
    with suppress(OSError, ValueError):
        while child.connection.poll(max(0.0, end - time.monotonic())):
            kind, *rest = child.receive()
            if kind in ("rests", "died"):
                return bool(rest and rest[0])
    return False


def _stack(log: Path) -> list[str]:
    """The innermost calls of what a child printed last about where it is; none where it could not."""
    _, found, stack = "\n".join(_last_lines(log, 1000)).rpartition("(most recent call first):\n")
    return [line.strip() for line in stack.splitlines()[:SHOWN_CALLS]] if found else []


def _last_lines(log: Path, count: int = SHOWN_LINES) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()[-count:]
    except OSError:
        return []


@contextmanager
def _rendezvous(world: int) -> Iterator[str]:
    """A file that does not exist yet, at which ranks meet; none for a process alone. Files of killed runs go."""
    if world == 1:
        yield ""
        return
    folder = locks_folder()
    for left in folder.glob("rendezvous-*"):
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - OLD_SECONDS:
                left.unlink()
    file = folder / f"rendezvous-{os.getpid()}-{next(_numbers)}"
    try:
        yield str(file)
    finally:
        file.unlink(missing_ok=True)
