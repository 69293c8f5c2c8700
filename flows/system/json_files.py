"""JSON files of a store, written so that a kill leaves the old or the new, and caches, which may fail to be written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.contract import JSON
from tasks.digests import with_digest, without_digest
from tasks.files import atomic_replace, sync


def write_json(path: Path, value: Mapping[str, JSON], *, durable: bool = True) -> None:
    """Replace `path` by `value` and its digest in one step; `durable`: it survives a power cut from then on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_replace(path, durable=durable) as fresh:
        fresh.write_bytes(with_digest(value))


def read_json(path: Path) -> dict[str, Any]:
    """The value that `write_json` wrote. Raises OSError, and ValueError where the bytes have changed since."""
    return without_digest(path.read_bytes())


def write_cache(path: Path, value: Mapping[str, JSON]) -> None:
    """Like `write_json`, for values that can be computed again: where they cannot be written, nothing happens."""
    with suppress(OSError):
        write_json(path, value, durable=False)


def read_cache(path: Path) -> dict[str, Any]:
    """The value that `write_cache` wrote; empty if there is none or its bytes have changed since."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def make_durable(directory: Path, umask: int) -> None:
    """Make every file and entry below a directory durable, with the permissions that `umask` leaves."""
    for base, _, files in os.walk(directory):
        for name in files:
            file = Path(base) / name
            if not file.is_symlink():
                with suppress(PermissionError):  # a file of another user, shared with an artifact of theirs
                    file.chmod(0o666 & ~umask)
            sync(file)
        sync(Path(base))
