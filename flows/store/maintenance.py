"""Maintenance of a store: check all digests, reclaim space."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from flows.store.reach import reach_of
from flows.store.records import Record, read_record, write_record
from flows.store.retained import kept_file
from flows.store.runs import Runs
from flows.store.store import ANSWERS, KEPT, Store
from flows.system.locks import locked, try_lock
from tasks.answers.upkeep import check_answers, unneeded_files
from tasks.contract import SpecError
from tasks.people.upkeep import check_surveys

HALF_WRITTEN_SECONDS = 600.0
"""Age from which a temporary file counts as left by a killed process, and not as being written now."""


class Damage(NamedTuple):
    """Content, a record or the file of a run whose digest does not match."""

    what: str
    """`Policy 0d71e338ff47 (fit)`, `a record`, `a run`."""
    trouble: str
    """What is wrong, and where it was put."""
    record: Record | None = None
    """Of damaged content."""


class Freed(NamedTuple):
    """A path that was removed, why, and its size in bytes."""

    path: str
    why: str
    size: int


def verify_store(store: Store) -> list[Damage]:
    """Read all records, runs and answers of oracles, and all content that a record names, whatever its stat says. What
    is damaged is set aside; an adapter whose base is gone is named, and stays, and so is a survey of people."""
    damages = [Damage("the answers of oracles", text) for text in [check_answers(store.root / ANSWERS)] if text]
    damages += [Damage("a survey", text) for text in check_surveys(store.root / ANSWERS)]
    for file, what in _damaged_files(store):
        name = file.relative_to(store.root).as_posix()
        aside = store.put_aside(file, f"{what.removeprefix('a ')}-{file.stem}")
        damages.append(Damage(what, f"{name} is not what was written{aside}"))
    results = [*kept_results(store)]
    own = {path: _trouble(store, record) for path, record in {r.path: r for r in results}.items()}
    troubles = [(r, own[r.path] or store.references.error(r)) for r in results]
    return damages + [Damage(f"{r.kind} {r.content[:12]} ({r.task})", text, r) for r, text in troubles if text]


def _trouble(store: Store, record: Record) -> str:
    """What is wrong with a record's content, which is set aside then; empty if nothing. Reads all of it."""
    if not store.integrity_error(record, trusted=-1):
        return ""
    store.contents.forget(store.root / record.path)
    return store.check(record)


def _damaged_files(store: Store) -> Iterator[tuple[Path, str]]:
    """Files of records and runs that are not what was written, with what they should be."""
    for folder, name in (("keys", "{0.key}"), (KEPT, "{0.key}-{0.content}")):
        for file in sorted((store.root / folder).glob("*.json")):
            record = read_record(file)
            if record is None or name.format(record) != file.stem:
                yield file, "a record"
    intact = {run.id for run in Runs(store).newest()}
    for file in sorted((store.root / "runs").glob("*.json")):
        if file.stem not in intact:
            yield file, "a run"


def kept_results(store: Store) -> Iterator[Record]:
    """Every result that a key's record names, and each further one that is kept beside the ledgers and still there;
    without those whose content is absent on purpose."""
    kept = (r for r in store.records(KEPT) if os.path.lexists(store.root / r.path))
    results = {(r.key, r.content): r for r in (*kept, *store.records())}
    yield from (record for record in results.values() if not record.absent)


def collect_garbage(store: Store, *, dry: bool = False) -> list[Freed]:
    """Remove content without a record, work left by finished steps, damaged data and half-written files.

    Waits for results that are being published. Everything stays that a record names, of a key or of the ledgers, and
    what that refers to. So do the answers of oracles, which any later step may ask for.
    """
    freed = []
    with locked(store.root / "locks" / "gc"):
        for path, why in _rubbish(store):
            freed.append(Freed(path.relative_to(store.root).as_posix(), why, _size(path)))
            if not dry:
                _remove(path)
    return freed


def delete_unreached(store: Store, roots: Iterable[Record], *, dry: bool = False) -> list[Freed]:
    """Delete the content that none of these results needs (`flows.store.reach`); never what lies in a user's folder.

    Reports stay, so that all runs can be compared, and all records, which say then that their content was deleted: a
    step that needs it makes it again. Raises SpecError while a run is at work, since it may come to need any result.
    """
    with locked(store.root / "locks" / "gc"):
        if working := Runs(store).working():
            raise SpecError(f"runs are at work ({', '.join(working[-3:])}): delete results when they have ended")
        needed = reach_of(store, roots).contents
        unreached = [r for r in kept_results(store) if not (r.content in needed or r.location or r.kind == "Report")]
        return [*_delete_contents(store, unreached, dry=dry)]


def _delete_contents(store: Store, records: Sequence[Record], *, dry: bool) -> Iterator[Freed]:
    """A record says that its content is gone before it is: a kill in between leaves content for `collect_garbage`."""
    why = f"deleted by `alignflow gc` on {datetime.now(UTC):%Y-%m-%d}"
    for path, several in sorted(_by_path(records).items()):
        first = several[0]
        yield Freed(path, f"{first.task} {first.made[:10]}", _size(store.root / path))
        if dry:
            continue
        for record in several:
            for file in (store.root / "keys" / f"{record.key}.json", kept_file(store, record.result)):
                if (on_disk := read_record(file)) and on_disk.content == record.content:
                    write_record(file, replace(on_disk, absent=why))
        _remove(store.root / path)


def _by_path(records: Sequence[Record]) -> dict[str, list[Record]]:
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.path.as_posix(), []).append(record)
    return grouped


def _rubbish(store: Store) -> Iterator[tuple[Path, str]]:
    from tasks.kinds import KINDS

    kept = [*kept_results(store)]
    named = {store.root / record.path for record in kept}
    referred_to = {content for record in kept for content in record.refers_to}
    for path in sorted(path for kind in KINDS for path in (store.root / kind).glob("*")):
        if path not in named and path.name not in referred_to:
            yield path, "no record names it"
    for path in sorted(store.root.glob("partial/*")):
        held = try_lock(store.root / "locks" / f"{path.name}.lock", "gc")
        if held:
            if store.record(path.name):
                yield path, "its step is finished"  # removed by the caller while the lock is held
            held.release()
    for path in sorted(store.root.glob("damaged/*")):
        yield path, "damaged"
    yield from unneeded_files(store.root / ANSWERS)
    for folder in ("", "keys", "runs", KEPT, ".cache", ".prefect"):
        for path in sorted((store.root / folder).glob(".*.tmp*")):
            if time.time() - path.stat().st_mtime > HALF_WRITTEN_SECONDS:
                yield path, "half written"


def _size(path: Path) -> int:
    """Bytes that its removal frees: what a link points to does not count."""
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
