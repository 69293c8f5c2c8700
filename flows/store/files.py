"""Writing so that a kill leaves the old or the new, never a half: temporary name, fsync, rename."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tasks.contract import JSON


def write_json(path: Path, value: JSON, *, durable: bool = True) -> None:
    """Replace `path` by `value` in one step; `durable`: it survives a power cut from then on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    with temporary.open("w") as f:
        json.dump(value, f, separators=(",", ":"))
        f.write("\n")
        if durable:
            f.flush()
            os.fsync(f.fileno())
    temporary.replace(path)
    if durable:
        sync(path.parent)


def sync(directory: Path) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(directory: Path) -> None:
    """Make every file and entry below a directory durable."""
    for base, _, files in os.walk(directory):
        for name in files:
            sync(Path(base) / name)
        sync(Path(base))
