"""Errors of a full disk, as one sentence that names the disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.contract import DataError

FULL_BYTES = 8 * 2**20
"""Free bytes below which the failure of a program is put down to the disk."""


def is_out_of_space(error: BaseException) -> bool:
    """Whether a disk, or a user's share of it, has no space left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_full(root: Path) -> bool:
    """Whether the disk of `root` has almost no space left."""
    return shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free < FULL_BYTES


def full(root: Path) -> DataError:
    return DataError(
        f"the disk of {root} is full: make room, then run the same again; what is finished is kept (`alignflow gc` "
        "removes what nothing names)"
    )


@contextmanager
def blaming_the_disk(root: Path) -> Iterator[None]:
    """Raise DataError where the block ends because the disk of the store at `root` is full."""
    try:
        yield
    except OSError as e:
        if not is_out_of_space(e):
            raise
        raise full(root) from None
