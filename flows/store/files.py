"""JSON files of a store, written so that a kill leaves the old or the new, and caches, which may fail to be written."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from tasks.contract import JSON
from tasks.files import replacing, sync


def write_json(path: Path, value: JSON, *, durable: bool = True) -> None:
    """Replace `path` by `value` in one step; `durable`: it survives a power cut from then on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=durable) as fresh, fresh.open("w") as f:
        json.dump(value, f, separators=(",", ":"))
        f.write("\n")


def write_cache(path: Path, value: JSON) -> None:
    """Like `write_json`, for what can be computed again: a place that cannot be written, or is full, stops nobody."""
    with suppress(OSError):
        write_json(path, value, durable=False)


def sync_tree(directory: Path) -> None:
    """Make every file and entry below a directory durable."""
    for base, _, files in os.walk(directory):
        for name in files:
            sync(Path(base) / name)
        sync(Path(base))
