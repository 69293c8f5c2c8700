"""Parts of unfinished work (shards, checkpoints) that a later attempt reads.

A kill leaves only whole parts. Digests detect corruption on disk: a damaged part counts as missing and is redone.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from tasks.contract import JSON
from tasks.files import remove, sync, temporary

DIGESTS = "digests.json"
"""Digests of a part's files, by relative path."""


@contextmanager
def new_part(folder: Path, *, shared: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `folder`, with digests, at the end of the block.

    Temporary folders of killed attempts are removed: those of this part where other processes write parts beside it
    (`shared`), else all that lie there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.*.tmp" if shared else ".*.tmp"):
        remove(stale)
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
    """Whether a part exists and matches its digests."""
    try:
        return bool(json.loads((folder / DIGESTS).read_text()) == _digests(folder))
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, JSON]:
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: _digest(file) for name, file in files.items() if name != DIGESTS}


def _digest(file: Path) -> str:
    return blake3(max_threads=blake3.AUTO).update_mmap(file).hexdigest(16)
