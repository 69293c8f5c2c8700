"""Atomic writes: a file or folder is written under a temporary name, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


def temporary(path: Path) -> Path:
    """A unique temporary name in the directory of `path`: `.name.<random>.tmp`."""
    return path.with_name(f".{path.name}.{uuid4().hex}.tmp")


@contextmanager
def atomic_replace(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path for the new file, which replaces `path` at the end of the block.

    A kill leaves the old file or the new one, and at most a temporary file, which `gc` removes.

    durable: the new file survives a power failure.
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
    """Delete a file or a folder if it exists; errors are ignored."""
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
