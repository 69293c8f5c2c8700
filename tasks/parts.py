"""Parts of unfinished work that a later attempt reads: each carries a digest of its content.

A kill leaves whole parts alone; a disk may still change them. A part that is not what was written counts as absent, so
it is made again, and is never used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from tasks.contract import JSON
from tasks.files import remove, sync, temporary

DIGESTS = "digests.json"
"""Digests of a part's files by their paths, beside them."""


@contextmanager
def new_part(folder: Path) -> Iterator[Path]:
    """An empty folder to fill with files; at the end of the block it is `folder`, whole and with its digests.

    What a killed attempt left beside it goes away: one process at a time works in the folder of parts.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(".*.tmp"):
        remove(left)
    fresh = temporary(folder)
    fresh.mkdir()
    try:
        yield fresh
        (fresh / DIGESTS).write_text(json.dumps(_digests(fresh)))
        for path in [*fresh.rglob("*"), fresh]:
            sync(path)
        remove(folder)
        fresh.rename(folder)
    except BaseException:
        remove(fresh)
        raise
    sync(folder.parent)


def is_intact(folder: Path) -> bool:
    """Whether a part is there and holds exactly the bytes that were written."""
    try:
        return bool(json.loads((folder / DIGESTS).read_text()) == _digests(folder))
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, JSON]:
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: _digest(file) for name, file in files.items() if name != DIGESTS}


def _digest(file: Path) -> str:
    return blake3(max_threads=blake3.AUTO).update_mmap(file).hexdigest(16)
