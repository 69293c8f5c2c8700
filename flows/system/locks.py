"""Locks that the kernel frees when their holder dies: `flock` on a file of their own."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WaitingCallback = Callable[[float, str], None]
"""Called again and again while waiting, with the seconds so far and who holds the lock; may raise to give up."""


class HeldLock:
    """A lock held by this process until `release` or its death."""

    def __init__(self, path: Path, fd: int, shared: bool) -> None:
        self._path, self._fd, self._shared = path, fd, shared

    def write(self, text: str) -> None:
        """Put `text` in the lock's file, unless it is another user's, who alone may write to it."""
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode(), 0)

    def release(self, *, keep_file: bool = False) -> None:
        if self._fd >= 0:
            if not self._shared and not keep_file:
                self._path.unlink(missing_ok=True)  # while still held: who waits sees that the file is gone
            os.close(self._fd)
            self._fd = -1


def try_lock(path: Path, who: str | None = "", *, shared: bool = False) -> HeldLock | None:
    """The lock, or None if another holds it (also another thread of this process). `who` None leaves its text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        fd = _open(path)
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if _still_there(path, fd):
            held = HeldLock(path, fd, shared)
            if not shared and who is not None:
                held.write(who)
            return held
        os.close(fd)


@contextmanager
def locked(
    path: Path, who: str = "", *, waiting: WaitingCallback | None = None, shared: bool = False
) -> Iterator[None]:
    """Hold the lock; while another process or thread holds it, try again every tenth of a second."""
    start = time.monotonic()
    while (held := try_lock(path, who, shared=shared)) is None:
        if waiting:
            waiting(time.monotonic() - start, holder(path))
        time.sleep(0.02 if time.monotonic() - start < 1 else 0.1)
    try:
        yield
    finally:
        held.release()


def holder(path: Path) -> str:
    """The text that the holder wrote into the lock."""
    try:
        return path.read_text()
    except OSError:
        return ""


def is_free(path: Path) -> bool:
    """Whether the lock is free now. Writes nothing, so that it works on a store that is read-only."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    except PermissionError:  # another user's private file: it may be held
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    """A descriptor of the lock's file. To lock another user's it need not be writable."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY)


def _still_there(path: Path, fd: int) -> bool:
    """Whether the file behind `fd` is the one at `path`, not one that its last holder removed."""
    try:
        there, mine = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
