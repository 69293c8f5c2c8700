"""Digests of data: a directory is the sorted list of (relative path, size, file digest), nothing else.

Names that begin with a dot (`.git`, `.cache`) do not count. Links are followed.
Digests of files are remembered by their stat with its ctime, which no program can set back, so that an edit in place
shows even where size and modification time were restored.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from threading import Lock

from blake3 import blake3

from flows.system.json_files import read_cache, write_cache
from tasks.contract import SpecError

LARGE = 64 * 2**20
"""Bytes above which an unchanged file is not read again."""
_SETTLED = 2.0
"""Seconds since a file's last change from which its stat is trusted: clocks of file systems are coarse."""


class Contents:
    """Digests files and directories; remembers those of files by (device, inode, size, mtime, ctime).

    `cache` is a JSON file that keeps them between commands; where it cannot be read or written, files are read again.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self._lock = Lock()
        self._new: dict[str, list[int | str]] = {}

    def digest(self, path: Path, *, trusted: int = LARGE) -> str:
        """Content digest of a file or directory (32 hex digits).

        Files of at least `trusted` bytes whose stat has not changed are not read again; a negative number reads all.
        Raises SpecError if there is nothing at `path`.
        """
        if path.is_file():
            return self.file(path, trusted=trusted)
        if not path.is_dir():
            raise SpecError(f"there is no file or directory {path}")
        h = blake3()
        for relative in sorted(files_of(path)):
            file = path / relative
            h.update(f"{relative}\0{file.stat().st_size}\0{self.file(file, trusted=trusted)}\n".encode())
        return h.hexdigest(16)

    def file(self, path: Path, *, trusted: int = LARGE) -> str:
        """Digest of one file's bytes."""
        stat = path.stat()
        if trusted < 0 or stat.st_size < trusted:
            return _read(path, stat.st_size)
        name = os.path.realpath(path)
        seen: list[int | str] = [*fingerprint(stat)]
        known = self._known.get(name)
        if known and known[:-1] == seen:
            return str(known[-1])
        digest = _read(path, stat.st_size)
        if time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED:
            with self._lock:
                self._known[name] = self._new[name] = [*seen, digest]
        return digest

    def forget(self, path: Path) -> None:
        """Read the files at or below `path` again next time."""
        real = os.path.realpath(path)
        with self._lock:
            for name in [n for n in self._known if n == real or n.startswith(real + os.sep)]:
                self._known[name] = self._new[name] = []

    @cached_property
    def _known(self) -> dict[str, list[int | str]]:
        return _load(self._cache)

    def save(self) -> None:
        """Keep the digests for the next command."""
        with self._lock:
            if self._cache and self._new:
                write_cache(self._cache, {**_load(self._cache), **self._new})  # type: ignore[dict-item]
                self._new = {}


def fingerprint(stat: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is written, replaced or renamed: device, inode, size, mtime, ctime (both in ns)."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _load(cache: Path | None) -> dict[str, list[int | str]]:
    return read_cache(cache) if cache else {}


def files_of(root: Path) -> Iterator[str]:
    """Relative paths of all files below `root`, with `/` between parts; names that begin with a dot are left out."""
    seen = set()
    for base, directories, files in os.walk(root, followlinks=True):
        real = os.path.realpath(base)
        if real in seen:  # a link back up
            directories.clear()
            continue
        seen.add(real)
        directories[:] = [d for d in directories if not d.startswith(".")]
        relative = Path(base).relative_to(root)
        yield from ((relative / f).as_posix() for f in files if not f.startswith("."))


def _read(path: Path, size: int) -> str:
    h = blake3(max_threads=blake3.AUTO if size > LARGE else 1)
    if size > 2**20:
        h.update_mmap(path)
    else:
        h.update(path.read_bytes())
    return h.hexdigest(16)
