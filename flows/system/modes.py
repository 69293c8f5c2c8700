"""Permissions of new files in a store: its owner's alone, unless its folder is shared.

A folder that the group or all users may write to is shared, and new files in it have the folder's permissions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def umask_of(root: Path) -> int:
    """Permissions that new files and folders of the store at `root` do not get. If there is none, it is private."""
    mode = root.stat().st_mode if root.exists() else 0
    return 0o077 & ~mode if mode & 0o022 else 0o077


def present_umask() -> int:
    """Permissions that new files of this process do not get now."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


@contextmanager
def own_umask() -> Iterator[None]:
    """Restores the umask at the end of the block."""
    before = present_umask()
    try:
        yield
    finally:
        os.umask(before)


def follow_folder(root: Path) -> None:
    """From now on new files of this process, and of those it starts, have the permissions of the store at `root`."""
    os.umask(umask_of(root))
