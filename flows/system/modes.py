"""Who may read and write what a store gets: its owner alone, unless its folder is shared.

A folder that the group or everybody may write to is shared, and what is made in it has the folder's permissions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def umask_of(root: Path) -> int:
    """Permissions that new files and folders of the store at `root` do not get. One that is not there is private."""
    mode = root.stat().st_mode if root.exists() else 0
    return 0o077 & ~mode if mode & 0o022 else 0o077


@contextmanager
def own_umask() -> Iterator[None]:
    """Behind the block new files have the permissions that they had before it again."""
    before = os.umask(0o077)
    os.umask(before)
    try:
        yield
    finally:
        os.umask(before)


def follow_folder(root: Path) -> None:
    """From now on all that this process makes, and what it starts, has the permissions of the store at `root`."""
    os.umask(umask_of(root))
