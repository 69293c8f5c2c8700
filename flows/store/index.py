"""A summary of all records, kept up to date by their files' times: what is made from what, and how long it took."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from flows.store.keys import fixed_digest
from flows.store.records import Parent, Record, read_record
from flows.system.json_files import read_cache, write_cache
from tasks.contract import JSON


@dataclass(frozen=True)
class IndexEntry:
    """One line of the summary."""

    key: str
    task: str
    kind: str
    content: str
    made: str
    seconds: float
    rows: int | None
    totals: Mapping[str, float]
    parents: Mapping[str, tuple[Parent, ...]]
    fixed: str
    """Digest of the key's parts without the inputs: what is known of a step before its inputs are."""

    @property
    def result(self) -> Parent:
        """What it is to a step that it feeds."""
        return Parent(self.key, self.content)

    @property
    def inputs(self) -> Iterator[Parent]:
        return (p for several in self.parents.values() for p in several)


class RecordIndex:
    """Entries by the names of their files, which are keys; a refresh reads only the records written since the last."""

    def __init__(self, root: Path, folder: str = "keys", cache: str = "records") -> None:
        self._keys = root / folder
        self._cache = root / ".cache" / f"{cache}.json"
        self._times: dict[str, int] = {}
        self._entries: dict[str, IndexEntry] = {}
        self._lock = RLock()
        self._loaded = False

    def entries(self) -> dict[str, IndexEntry]:
        """All entries by their files' names, as of now."""
        with self._lock:
            self._refresh()
            return dict(self._entries)

    def of_content(self, content: str) -> list[IndexEntry]:
        """Entries whose result is this content."""
        return [e for e in self.entries().values() if e.content == content]

    def _refresh(self) -> None:
        if not self._loaded:
            self._load()
        found = {e.name[:-5]: e.stat().st_mtime_ns for e in _scan(self._keys) if e.name.endswith(".json")}
        changed = [key for key, time in found.items() if self._times.get(key) != time]
        for key in self._times.keys() - found.keys():
            self._entries.pop(key, None)
        for key in changed:
            record = read_record(self._keys / f"{key}.json")
            if record:
                self._entries[key] = _entry(record)
        if changed or found.keys() != self._times.keys():
            self._times = found
            self._save()

    def _load(self) -> None:
        self._loaded = True
        try:
            data = read_cache(self._cache)
            self._times = data["times"]
            self._entries = {key: _read_entry(e) for key, e in data["entries"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            self._times, self._entries = {}, {}

    def _save(self) -> None:
        entries: dict[str, JSON] = {key: _entry_json(e) for key, e in self._entries.items()}
        write_cache(self._cache, {"times": dict(self._times), "entries": entries})


def _scan(directory: Path) -> Iterable[os.DirEntry[str]]:
    try:
        return [e for e in os.scandir(directory) if not e.name.startswith(".")]
    except FileNotFoundError:
        return []


def _entry(r: Record) -> IndexEntry:
    return IndexEntry(
        r.key, r.task, r.kind, r.content, r.made, r.seconds, r.rows, r.totals, r.parents, fixed_digest(r.parts)
    )  # fmt: skip


def _entry_json(e: IndexEntry) -> JSON:
    parents: dict[str, JSON] = {port: [[p.key, p.content] for p in several] for port, several in e.parents.items()}
    return [e.key, e.task, e.kind, e.content, e.made, e.seconds, e.rows, dict(e.totals), parents, e.fixed]


def _read_entry(data: list[Any]) -> IndexEntry:
    key, task, kind, content, made, seconds, rows, totals, parents, fixed = data
    made_of = {port: tuple(Parent(*p) for p in several) for port, several in parents.items()}
    return IndexEntry(key, task, kind, content, made, seconds, rows, totals, made_of, fixed)
