"""Results and runs of another store, brought here with their lineage."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from flows.store.reach import reach_of
from flows.store.records import Record
from flows.store.runs import Run, Runs
from flows.store.store import Store
from tasks.contract import DataError, SpecError


@dataclass
class Imported:
    """What became of the records of an import."""

    copied: list[Record] = field(default_factory=list)
    here: list[Record] = field(default_factory=list)
    """Those whose key has a result here already, which stays."""
    different: list[Record] = field(default_factory=list)
    """Of these, those whose result here has another content."""
    absent: list[Record] = field(default_factory=list)
    """Models and log-probabilities behind the results: their records are here, their content is not."""


def import_results(store: Store, other: Store, roots: Sequence[Record]) -> Imported:
    """Copy results of another store, what they refer to, and the tables behind them; of all else the records.

    Every byte is read and compared with its digest. An import that was killed is done again and goes on. Raises
    DataError for content that is damaged or gone there.
    """
    if store.root == other.root:
        raise SpecError(f"{other.root} is this store itself")
    reach, done = reach_of(other, roots), Imported()
    for record in reach.records.values():
        with store.lock(record.key):
            mine = store.record(record.key)
            if mine and not mine.absent:
                done.here.append(mine)
                if mine.content != record.content:
                    done.different.append(record)
            elif record.content in reach.contents:
                _copy(store, other, record)
                done.copied.append(record)
            else:
                store.adopt(replace(record, absent=record.absent or f"left in {other.root}"), None)
                done.absent.append(record)
    return done


def _copy(store: Store, other: Store, record: Record) -> None:
    if error := other.integrity_error(record, trusted=-1):
        raise DataError(f"{record.kind} {record.content[:12]} ({record.task}) cannot be imported: {error}")
    if record.location or not store.integrity_error(record):
        store.adopt(record, Path(record.location) if record.location else None)
        return
    (store.root / "partial").mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=store.root / "partial", prefix=".import-") as scratch:
        copy = Path(shutil.copytree(other.root / record.path, Path(scratch) / "content"))
        if store.contents.digest(copy, trusted=-1) != record.content:
            raise DataError(f"{record.kind} {record.content[:12]} changed while it was copied: import it again")
        store.adopt(record, copy)


def import_run(store: Store, other: Store, run: Run) -> Imported:
    """Copy a run that is over, with the results of all its steps. Raises SpecError for one that is at work."""
    if run.status == "running":
        raise SpecError(f"run {run.id} is not over: import it when it has ended")
    steps = [(step, other.record(step.key)) for step in run.steps.values() if step.key]
    imported = import_results(store, other, [r for step, r in steps if r and r.content == step.content])
    if run.id not in Runs(store).ids():
        Runs(store).save(replace(run, links={}, notices=[*run.notices, f"imported from {other.root}"]))
    return imported
