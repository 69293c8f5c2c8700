"""The machine's devices for heavy work: a lock for each GPU and one for its CPUs, shared by all runs of a user.

The locks lie in a folder of the machine, not of a store, so that two stores never use one card at a time. A step takes
all devices that it needs at once or none, so no two steps wait for each other. Steps that wait hold a ticket: after
`PATIENCE` seconds no step that came later gets a device that they could use, so one that needs many has its turn.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import count
from math import inf
from pathlib import Path

from flows.system.locks import HeldLock, holder, is_free, locked, try_lock
from tasks.contract import SpecError

FOLDER = "ALIGNFLOW_LOCKS"
"""Variable: the folder of the locks."""
TEMPORARY = Path("/tmp")
PATIENCE = 5.0
"""Seconds after which a step that waits is no longer overtaken."""
CPUS = "cpus"
_numbers = count()


def locks_folder() -> Path:
    """`$ALIGNFLOW_LOCKS`, else `/tmp/alignflow-<uid>`: on a disk of this machine, whatever a shell's variables are.

    So runs of several users do not see each other: give each user cards of her own by CUDA_VISIBLE_DEVICES.

    Raises SpecError where the folder belongs to another user, who could hold up this one's work.
    """
    if given := os.environ.get(FOLDER):
        Path(given).mkdir(parents=True, exist_ok=True)
        return Path(given)
    folder = TEMPORARY / f"alignflow-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    there = folder.lstat()
    if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.getuid():
        raise SpecError(
            f"{folder}, where the locks of this machine's devices belong, is not a folder of your own: remove it, or "
            f"set {FOLDER} to a folder on a disk of this machine"
        )
    return folder


class Ticket:
    """The place of one step in the queue for some devices, from when it is made until `close`."""

    def __init__(self, folder: Path, names: Sequence[str], who: str, since: float) -> None:
        self.since = since
        self.path = folder / f"{os.getpid()}-{next(_numbers)}.lock"
        self._lock = try_lock(self.path, json.dumps([self.since, list(names), who]))

    def close(self) -> None:
        if self._lock:
            self._lock.release()


class Devices:
    """The locks of devices of one kind, of which any will do."""

    def __init__(self, kind: str, names: Sequence[str], who: str) -> None:
        """`names`: of the devices, in the order in which they are taken; `who`: this run, as others see it."""
        self.kind, self.names, self._who = kind, tuple(names), who

    @cached_property
    def _folder(self) -> Path:
        return locks_folder()

    @property
    def _queue(self) -> Path:
        return self._folder / f"{self.kind}-queue"

    def wait_in_queue(self, since: float) -> Ticket:
        """A place behind those that have waited since before `since`, in seconds of `time.time`."""
        self._queue.mkdir(exist_ok=True)
        return Ticket(self._queue, self.names, self._who, since)

    def take(self, least: int, most: int, ticket: Ticket | None = None) -> dict[str, HeldLock] | None:
        """The locks of up to `most` free devices by name; None if fewer than `least` are free and not due to others."""
        with locked(self._folder / f"{self.kind}-door.lock"):  # for an instant
            due = self._due_to_others(ticket)
            taken: dict[str, HeldLock] = {}
            for name in self.names:
                if len(taken) < most and name not in due and (lock := try_lock(self._path(name), self._who)):
                    taken[name] = lock
            if len(taken) >= least:
                return taken
            for lock in taken.values():
                lock.release()
            return None

    def others_wait(self) -> bool:
        """Whether a step of another run waits for one of these devices."""
        return any(who != self._who and set(names) & set(self.names) for _, names, who, _ in self._tickets())

    def holders(self) -> str:
        """The other runs that hold devices now."""
        held = (path for path in map(self._path, self.names) if not is_free(path))
        return " and ".join(sorted({text for path in held if (text := holder(path))} - {self._who}))

    def _due_to_others(self, ticket: Ticket | None) -> set[str]:
        """The devices for which steps of other runs wait that came earlier and have lost their patience.

        The steps of one run have an order of their own, which need not be that of their tickets: if they waited for
        each other here, the first in that order could wait for ever for one that is behind it.
        """
        before = min(ticket.since if ticket else inf, time.time() - PATIENCE)
        return {n for since, names, who, _ in self._tickets() if since < before and who != self._who for n in names}

    def _tickets(self) -> Iterator[tuple[float, list[str], str, Path]]:
        """Those of all steps that wait: since when, for what, whose, and the file. Files of killed runs are removed."""
        for path in self._queue.glob("*.lock"):
            if is_free(path):
                if left := try_lock(path):
                    left.release()
                continue
            with suppress(ValueError):  # not written yet
                since, names, who = json.loads(holder(path))
                yield since, names, who, path

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"
