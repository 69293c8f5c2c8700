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
from tasks.ranks import barrier, broadcast, gather, join

DIGESTS = "digests.json"
"""Digests of a part's files, by relative path."""


@contextmanager
def new_part(folder: Path, *, shared: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `folder`, with digests, at the end of the block.

    Temporary folders of killed attempts are removed: those of this part where other processes write parts beside it
    (`shared`), else all that lie there.
    """
    fresh = _fresh(folder, f".{folder.name}.*.tmp" if shared else ".*.tmp")
    try:
        yield fresh
        for path in fresh.rglob("*"):
            sync(path)
        _become(fresh, folder, _digests(fresh))
    except BaseException:
        remove(fresh)
        raise


@contextmanager
def new_part_of_ranks(folder: Path) -> Iterator[Path]:
    """`new_part` of all ranks of a step: each writes files of its own, and rank 0 renames when all are whole.

    A rank that dies leaves the others waiting, and `folder` as it was.
    """
    ranks = join()
    fresh: Path = broadcast(_fresh(folder, ".*.tmp") if ranks.is_first else None)
    yield fresh
    barrier()
    own = _files(fresh)[ranks.rank :: ranks.world]  # each reads a share, whoever wrote it
    for file in own:
        sync(file)
    digests = gather({file.relative_to(fresh).as_posix(): _digest(file) for file in own})
    if ranks.is_first:
        _become(fresh, folder, {name: digest for part in digests for name, digest in part.items()})
    barrier()


def _fresh(folder: Path, stale_names: str) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(stale_names):
        remove(stale)
    fresh = temporary(folder)
    fresh.mkdir()
    return fresh


def _become(fresh: Path, folder: Path, digests: dict[str, JSON]) -> None:
    (fresh / DIGESTS).write_text(json.dumps(digests))
    for path in (fresh / DIGESTS, fresh):
        sync(path)
    remove(folder)
    fresh.rename(folder)
    sync(folder.parent)


def is_intact(folder: Path) -> bool:
    """Whether a part exists and matches its digests."""
    try:
        return bool(json.loads((folder / DIGESTS).read_text()) == _digests(folder))
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, JSON]:
    return {file.relative_to(folder).as_posix(): _digest(file) for file in _files(folder)}


def _files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p != folder / DIGESTS]


def _digest(file: Path) -> str:
    return blake3(max_threads=blake3.AUTO).update_mmap(file).hexdigest(16)
