"""The record of a finished step: what its result is, and everything that is known of how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter

from flows.python.packages import installed_versions
from flows.store.keys import Key, digest_of
from flows.store.provenance import commit, hardware
from flows.system.json_files import read_json, write_json
from tasks.contract import JSON

if TYPE_CHECKING:
    JsonObject = Mapping[str, JSON]
else:
    JsonObject = Mapping[str, Any]  # pydantic cannot follow a type that contains itself

Digest = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Kind = Annotated[str, Field(pattern=r"^[^\W\d]\w*$")]
"""Digests and kinds are parts of paths in the store: nothing else may stand there."""


@dataclass(frozen=True)
class Parent:
    """One input of a step: the key under which it was made, and its content."""

    key: str
    content: str


class HasParents:
    """What a record and its entry in the index have in common."""

    key: str
    content: str
    parents: Mapping[str, tuple[Parent, ...]]
    refers_to: tuple[Digest, ...]

    @property
    def result(self) -> Parent:
        """The result as an input of another step."""
        return Parent(self.key, self.content)

    @property
    def inputs(self) -> Iterator[Parent]:
        """The inputs of all ports."""
        return (parent for several in self.parents.values() for parent in several)


@dataclass(frozen=True)
class Record(HasParents):
    """What `keys/<key>.json` holds."""

    key: Digest
    kind: Kind
    content: Digest
    """Digest of the data below `<kind>/<content>/`."""
    task: str
    parts: JsonObject
    """What the key is the digest of; see `flows.store.keys`."""
    code: Mapping[str, str] = field(default_factory=dict)
    """Digest of each unit of code by `path::name`: where the code lay that the key knows by its name alone."""
    parents: Mapping[str, tuple[Parent, ...]] = field(default_factory=dict)
    """Port → inputs in list order."""
    execution: JsonObject = field(default_factory=dict)
    """Parameters that are recorded and not keyed."""
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    hardware: JsonObject = field(default_factory=dict)
    seconds: float = 0.0
    made: str = ""
    """When, in UTC."""
    rows: int | None = None
    totals: Mapping[str, int | float] = field(default_factory=dict)
    """Metrics that add up: samples, queries, tokens, rows_skipped, …"""
    curves: tuple[Mapping[str, int | float], ...] = ()
    """Rows with `step` and metrics."""
    notices: tuple[str, ...] = ()
    location: str = ""
    """Where the data really lies, for a local model that the store only refers to."""
    refers_to: tuple[Digest, ...] = ()
    """Contents without which its own cannot be opened: the base of an adapter, the members of a scorer and theirs."""
    accepted: JsonObject = field(default_factory=dict)
    """Not empty where an older result stands for this key: `from` (its key) and `because` (what differs)."""
    remade: str = ""
    """The content that this key had first, where that was damaged and came out different when made again."""
    absent: str = ""
    """Why its content is not in this store, where that is meant: it was deleted to free space, or it lies in another
    store, from which the record was imported. The record stays for the lineage."""

    @property
    def path(self) -> Path:
        """`<kind>/<content>` below the store."""
        return Path(self.kind) / self.content

    def as_json(self) -> dict[str, JSON]:
        """All fields, as the file holds them."""
        data: dict[str, JSON] = _adapter().dump_python(self, mode="json")
        return data


@dataclass(frozen=True)
class HowMade:
    """How a step was executed; kept in its record."""

    seconds: float = 0.0
    execution: Mapping[str, JSON] = field(default_factory=dict)
    totals: Mapping[str, float] = field(default_factory=dict)
    curves: Sequence[Mapping[str, float]] = ()
    notices: Sequence[str] = ()
    hardware: Mapping[str, JSON] = field(default_factory=dict)
    """Added to the machine's own, e.g. threads per child."""


def new_record(
    key: Key, kind: str, content: str, parents: Mapping[str, Sequence[Record]], made: HowMade,
    *, location: str, refers_to: tuple[str, ...], rows: int | None, remade: str,
) -> Record:  # fmt: skip
    """The record of a step that has just finished on this machine."""
    packages = key.parts.get("packages")
    return Record(
        key=key.digest, kind=kind, content=content, task=str(key.parts["task"]), parts=key.parts, code=key.code,
        parents={port: tuple(r.result for r in several) for port, several in parents.items()},
        execution=made.execution, versions=installed_versions(packages if isinstance(packages, dict) else ()),
        commit=commit(Path.cwd()), hardware={**hardware(), **made.hardware},
        seconds=made.seconds, made=datetime.now(UTC).isoformat(timespec="seconds"), rows=rows, totals=made.totals,
        curves=tuple(made.curves), notices=tuple(made.notices), location=location,
        refers_to=refers_to, remade=remade,
    )  # fmt: skip


@cache
def _adapter() -> TypeAdapter[Record]:
    return TypeAdapter(Record)


def read_record(path: Path) -> Record | None:
    """The record in a file; None if there is no file, or what it holds is not the record that was written."""
    try:
        record = _adapter().validate_python(read_json(path))
    except (OSError, ValueError):
        return None
    return record if digest_of(record.parts) == record.key else None


def write_record(path: Path, record: Record) -> None:
    write_json(path, record.as_json())
