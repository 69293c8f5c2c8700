"""A summary of all records, kept up to date by their files' stat: what is made from what, and how long it took."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import RLock

from pydantic import TypeAdapter

from flows.store.content import fingerprint
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
        self._seen: dict[str, list[int]] = {}
        """Fingerprint of each record's file."""
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
        found = {e.name[:-5]: [*fingerprint(e.stat())] for e in _scan(self._keys) if e.name.endswith(".json")}
        changed = [key for key, stat in found.items() if self._seen.get(key) != stat]
        gone = self._seen.keys() - found.keys()
        for key in (*gone, *changed):
            self._entries.pop(key, None)
        for key in changed:
            record = read_record(self._keys / f"{key}.json")
            if record:
                self._entries[key] = _entry(record)
        if changed or gone:
            self._seen = found
            self._save()

    def _load(self) -> None:
        self._loaded = True
        try:
            data = read_cache(self._cache)
            entries = _adapter().validate_python(data["entries"])
            self._seen, self._entries = dict(data["seen"]), entries
        except (ValueError, KeyError, TypeError):
            self._seen, self._entries = {}, {}

    def _save(self) -> None:
        seen: JSON = {key: [*stat] for key, stat in self._seen.items()}
        write_cache(self._cache, {"seen": seen, "entries": _adapter().dump_python(self._entries, mode="json")})


@cache
def _adapter() -> TypeAdapter[dict[str, IndexEntry]]:
    return TypeAdapter(dict[str, IndexEntry])


def _scan(directory: Path) -> Iterable[os.DirEntry[str]]:
    try:
        return [e for e in os.scandir(directory) if not e.name.startswith(".")]
    except FileNotFoundError:
        return []


def _entry(r: Record) -> IndexEntry:
    return IndexEntry(
        r.key, r.task, r.kind, r.content, r.made, r.seconds, r.rows, r.totals, r.parents, fixed_digest(r.parts)
    )  # fmt: skip
