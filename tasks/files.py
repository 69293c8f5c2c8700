"""Files that appear whole or not at all: written beside their place under a name of their own, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


def temporary(path: Path) -> Path:
    """A name beside `path` that nobody else uses, also no other thread of this process: `.name.<random>.tmp`."""
    return path.with_name(f".{path.name}.{uuid4().hex}.tmp")


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A name to write a file to; at the end of the block the file takes the place of `path` in one step.

    A kill leaves the old file or the new one, never a half, and at most a temporary file, which `gc` removes.

    durable: the new file survives a power cut from then on.
    """
    fresh = temporary(path)
    try:
        yield fresh
        if durable:
            sync(fresh)
        fresh.replace(path)
    except BaseException:
        remove(fresh)
        raise
    if durable:
        sync(path.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder that may not exist, and that may not be deletable."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file, or the entries of a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
