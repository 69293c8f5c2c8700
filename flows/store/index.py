"""A summary of all records, kept up to date by their files' stat: what is made from what, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from errno import ENOTDIR
from functools import cache
from pathlib import Path
from threading import RLock

from pydantic import TypeAdapter

from flows.store.content import fingerprint
from flows.store.keys import fixed_digest
from flows.store.records import Digest, HasParents, Parent, Record, read_record
from flows.system.json_files import read_cache, write_cache


@dataclass(frozen=True)
class IndexEntry(HasParents):
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
    """Digest of the key's parts without the inputs, which is known before the inputs are."""
    refers_to: tuple[Digest, ...] = ()


@dataclass
class _Cache:
    """What is kept between commands."""

    files: dict[str, tuple[int, ...]]
    """Fingerprint of each record's file."""
    entries: dict[str, IndexEntry]


class RecordIndex:
    """Entries by the names of their files, which are keys; a refresh reads only the records written since the last."""

    def __init__(self, root: Path, folder: str = "keys", cache: str = "records") -> None:
        self._folder = root / folder
        self._file = root / ".cache" / f"{cache}.json"
        self._cached: _Cache | None = None
        self._lock = RLock()

    def entries(self) -> dict[str, IndexEntry]:
        """All entries by their files' names, as of now."""
        with self._lock:
            if self._cached is None:
                self._cached = _load(self._file)
            self._refresh(self._cached)
            return dict(self._cached.entries)

    def of_content(self, content: str) -> list[IndexEntry]:
        """Entries whose result is this content."""
        return [e for e in self.entries().values() if e.content == content]

    def records(self, content: str) -> list[Record]:
        """The records, as their files are now, whose result is this content, newest first."""
        of_content = {name: e.made for name, e in self.entries().items() if e.content == content}
        newest = sorted(of_content, key=lambda name: of_content[name], reverse=True)
        records = (read_record(self._folder / f"{name}.json") for name in newest)
        return [r for r in records if r and r.content == content]

    def _refresh(self, cached: _Cache) -> None:
        if self._folder.parent.is_file():
            raise NotADirectoryError(ENOTDIR, "is a file, not a folder of artifacts", str(self._folder.parent))
        files = {f.stem: fingerprint(f.stat()) for f in self._folder.glob("[!.]*.json")}
        changed = [name for name, stat in files.items() if cached.files.get(name) != stat]
        gone = cached.files.keys() - files.keys()
        for name in (*gone, *changed):
            cached.entries.pop(name, None)
        for name in changed:
            record = read_record(self._folder / f"{name}.json")
            if record:
                cached.entries[name] = _entry(record)
        if changed or gone:
            cached.files = files
            write_cache(self._file, _adapter().dump_python(cached, mode="json"))


@cache
def _adapter() -> TypeAdapter[_Cache]:
    return TypeAdapter(_Cache)


def _load(file: Path) -> _Cache:
    try:
        return _adapter().validate_python(read_cache(file))
    except ValueError:
        return _Cache({}, {})


def _entry(r: Record) -> IndexEntry:
    return IndexEntry(
        r.key, r.task, r.kind, r.content, r.made, r.seconds, r.rows, r.totals, r.parents, fixed_digest(r.parts),
        r.refers_to,
    )  # fmt: skip
