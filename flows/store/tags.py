"""Tags: names that people give to results. One file each, `tags/<name>.json`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from pydantic import TypeAdapter

from flows.store.records import Digest, Record
from flows.store.store import Store
from flows.system.json_files import read_json, write_json
from tasks.contract import SpecError

_NAME = re.compile(r"[A-Za-z][\w.-]{0,59}")
_DIGEST = re.compile(r"[0-9a-f]{4,32}")


@dataclass(frozen=True)
class Tag:
    """A name of a result: the key under which it was made, and its content."""

    name: str
    key: Digest
    content: Digest
    tagged: str
    """When, in UTC."""


class Tags:
    """The tags of a store. `gc` never removes what a tag names."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> Iterator[Tag]:
        """All tags that are intact, by name."""
        for file in sorted((self._store.root / "tags").glob("[!.]*.json")):
            if tag := self._read(file.stem):
                yield tag

    def set(self, name: str, record: Record, when: str) -> Tag | None:
        """Give a result a name, and return what had it before. Raises SpecError for a name that cannot be one."""
        if not _NAME.fullmatch(name) or _DIGEST.fullmatch(name) or name == "last":
            raise SpecError(
                f"'{name}' cannot be a tag: a letter, then letters, digits, `_`, `.` and `-`, at most 60, that could "
                "not begin a digest (`beef` could), and not `last`"
            )
        before = self._read(name)
        file = self._store.inside("tags", f"{name}.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, _adapter().dump_python(Tag(name, record.key, record.content, when), mode="json"))
        return before

    def remove(self, name: str) -> None:
        """Forget a tag; its result stays. Raises SpecError where there is none."""
        file = self._store.inside("tags", f"{name}.json")
        if not file.exists():
            known = ", ".join(tag.name for tag in self.all()) or "none"
            raise SpecError(f"there is no tag '{name}'; tags: {known}")
        file.unlink()

    def record(self, name: str) -> Record | None:
        """The record of what a tag names, whatever became of its key; None where there is no such tag."""
        tag = self._read(name) if _NAME.fullmatch(name) else None
        if tag is None:
            return None
        record = self._store.record(tag.key)
        if record and record.content == tag.content:
            return record
        return next(iter(self._store.index.records(tag.content)), None)

    def _read(self, name: str) -> Tag | None:
        try:
            return _adapter().validate_python(read_json(self._store.root / "tags" / f"{name}.json"))
        except (OSError, ValueError):
            return None


@cache
def _adapter() -> TypeAdapter[Tag]:
    return TypeAdapter(Tag)
