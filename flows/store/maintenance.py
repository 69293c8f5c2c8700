"""Looking after a store: read all digests, reclaim space."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from flows.store.records import Record, read_record
from flows.store.retained import KEPT
from flows.store.runs import Runs
from flows.store.store import Store
from flows.system.locks import locked, try_lock

HALF_WRITTEN_SECONDS = 600.0
"""Age from which a temporary file is a killed process's, and not one that is being written now."""


class Damage(NamedTuple):
    """Content, a record or a run that no longer is what was written."""

    record: Record | None
    """None where it is the record itself, or the file of a run."""
    trouble: str
    """What is wrong, and where it was put."""
    file: str = ""
    """What the file should be, where there is no record."""

    @property
    def what(self) -> str:
        """`Policy 0d71e338ff47 (fit)`, for people."""
        return f"{self.record.kind} {self.record.content[:12]} ({self.record.task})" if self.record else self.file


class Freed(NamedTuple):
    """A path that was reclaimed, why, and its bytes."""

    path: str
    why: str
    size: int


def verify_store(store: Store) -> list[Damage]:
    """Read every record and run, and every content that a record names, whatever its stat says. What is damaged is set
    aside."""
    damages = []
    for file, what in _damaged_files(store):
        name = file.relative_to(store.root).as_posix()
        aside = store.put_aside(file, f"{what.removeprefix('a ')}-{file.stem}")
        damages.append(Damage(None, f"{name} is not what was written{aside}", what))
    found: dict[str, str] = {}
    for record in kept_results(store):
        name = record.path.as_posix()
        if name not in found:
            found[name] = store.integrity_error(record, trusted=-1)
            if found[name]:
                store.contents.forget(store.root / record.path)
                found[name] = store.check(record)
        if found[name]:
            damages.append(Damage(record, found[name]))
    return damages


def _damaged_files(store: Store) -> Iterator[tuple[Path, str]]:
    """Files of records and runs that are not what was written, with what they should be."""
    runs = Runs(store)
    for file in sorted((store.root / "keys").glob("*.json")):
        record = read_record(file)
        if record is None or record.key != file.stem:
            yield file, "a record"
    for file in sorted((store.root / KEPT).glob("*.json")):
        record = read_record(file)
        if record is None or f"{record.key}-{record.content}" != file.stem:
            yield file, "a record"
    for file in sorted((store.root / "runs").glob("*.json")):
        if not runs.is_intact(file.stem):
            yield file, "a run"


def kept_results(store: Store) -> Iterator[Record]:
    """Every result that a key's record names, and each further one that is kept beside the ledgers and still there."""
    kept = (r for r in store.records(KEPT) if os.path.lexists(store.root / r.path))
    yield from {(r.key, r.content): r for r in (*kept, *store.records())}.values()


def collect_garbage(store: Store, *, dry: bool = False) -> list[Freed]:
    """Reclaim what nothing names: content without a record, work left by finished steps, damaged data, half writes.

    Waits for results that are just being filed. Everything stays that a record names, of a key or of the ledgers.
    """
    freed = []
    with locked(store.root / "locks" / "gc"):
        for path, why in _rubbish(store):
            freed.append(Freed(path.relative_to(store.root).as_posix(), why, _size(path)))
            if not dry:
                _remove(path)
    return freed


def _rubbish(store: Store) -> Iterator[tuple[Path, str]]:
    from tasks.kinds import KINDS

    named = {record.path.as_posix() for record in kept_results(store)}
    for kind in KINDS:
        for path in sorted((store.root / kind).glob("*")):
            if path.relative_to(store.root).as_posix() not in named:
                yield path, "no record names it"
    for path in sorted(store.root.glob("partial/*")):
        held = try_lock(store.root / "locks" / f"{path.name}.lock", "gc")
        if held:
            if store.record(path.name):
                yield path, "its step is finished"  # removed by the caller while the lock is held
            held.release()
    for path in sorted(store.root.glob("damaged/*")):
        yield path, "damaged"
    for folder in ("", "keys", "runs", KEPT, ".cache", ".prefect"):
        for path in sorted((store.root / folder).glob(".*.tmp*")):
            if time.time() - path.stat().st_mtime > HALF_WRITTEN_SECONDS:
                yield path, "half written"


def _size(path: Path) -> int:
    """Bytes that go away with a path: what a link points to does not count."""
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(os.lstat(Path(base) / f).st_size for base, _, files in os.walk(path) for f in files)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)
