"""The record of a finished step: the presence of its result, and everything one may ask about how it came about."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from flows.store.keys import digest_of
from flows.system.json_files import read_json, write_json
from tasks.contract import JSON, DataError

_DIGEST = re.compile(r"[0-9a-f]{32}")


class Parent(NamedTuple):
    """One input of a step: the key under which it was made, and its content."""

    key: str
    content: str


@dataclass(frozen=True)
class Record:
    """What `keys/<key>.json` holds."""

    key: str
    kind: str
    content: str
    """Digest of the data below `<kind>/<content>/`."""
    task: str
    parts: Mapping[str, JSON]
    """What the key is the digest of; see `flows.store.keys`."""
    code: Mapping[str, str] = field(default_factory=dict)
    """Digest of each unit of code by `path::name`: where what the key holds by name alone lay."""
    parents: Mapping[str, tuple[Parent, ...]] = field(default_factory=dict)
    """Port → inputs in list order."""
    execution: Mapping[str, JSON] = field(default_factory=dict)
    """Parameters that are recorded and not keyed."""
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    hardware: Mapping[str, JSON] = field(default_factory=dict)
    seconds: float = 0.0
    made: str = ""
    """When, in UTC."""
    rows: int | None = None
    totals: Mapping[str, float] = field(default_factory=dict)
    """Metrics that add up: samples, queries, tokens, rows_skipped, …"""
    curves: tuple[Mapping[str, float], ...] = ()
    """Rows with `step` and metrics."""
    notices: tuple[str, ...] = ()
    location: str = ""
    """Where the data really lies, for a local model that the store only refers to."""
    accepted: Mapping[str, JSON] = field(default_factory=dict)
    """Not empty where an older result stands for this key: `from` (its key) and `because` (what differs)."""
    remade: str = ""
    """The content that this key had first, where that was damaged and came out different when made again."""

    @property
    def path(self) -> Path:
        """`<kind>/<content>` below the store."""
        return Path(self.kind) / self.content

    def as_json(self) -> dict[str, JSON]:
        data: dict[str, JSON] = json.loads(json.dumps(asdict(replace(self, parents={}))))
        data["parents"] = {
            port: [{"key": p.key, "content": p.content} for p in several] for port, several in self.parents.items()
        }
        return data


def record_from_json(data: Mapping[str, Any]) -> Record:
    """A record as written by `as_json`. Raises DataError for one that is none or whose digests are no digests."""
    fields = {k: v for k, v in data.items() if k in Record.__dataclass_fields__}
    try:
        parents = {
            str(port): tuple(Parent(p["key"], p["content"]) for p in several)
            for port, several in data["parents"].items()
        }
        record = Record(**{**fields, "parents": parents})
    except (TypeError, KeyError, AttributeError) as e:
        raise DataError(f"this is no record of a step: {e}") from None
    maps = [record.parts, record.code, record.totals, record.versions, record.hardware, *record.curves]
    if not all(isinstance(m, dict) for m in maps):
        raise DataError(f"the record of key '{record.key}' has fields of other types than a record has")
    if not _DIGEST.fullmatch(record.key) or not _DIGEST.fullmatch(record.content) or not record.kind.isidentifier():
        raise DataError(f"the record of key '{record.key}' names a path outside the store")
    return replace(record, curves=tuple(record.curves), notices=tuple(record.notices))


def read_record(path: Path) -> Record | None:
    """The record in a file; None if there is no file, or what it holds is not the record that was written."""
    try:
        record = record_from_json(read_json(path))
    except (OSError, ValueError):
        return None
    return record if digest_of(record.parts) == record.key else None


def write_record(path: Path, record: Record) -> None:
    write_json(path, record.as_json())
