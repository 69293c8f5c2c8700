"""What artifacts refer to by content and cannot be opened without: the base of an adapter, the members of a scorer.

An artifact's files name it by role (`tasks.kinds.Artifact.refers_to`); it lies in the store under its content, as data
or as a link to a user's folder. It may refer to others in turn: a member that is an adapter has a base.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flows.store.content import Contents
from flows.store.index import RecordIndex
from flows.store.records import Record
from flows.wiring.views import MODELS
from tasks.contract import DataError

if TYPE_CHECKING:
    from tasks.kinds import Artifact, Member


@dataclass(frozen=True)
class Reference:
    """An artifact that another one refers to, where its data is intact, and what it refers to itself."""

    kind: str
    content: str
    path: Path
    location: Path | None = None
    """The folder outside of the store where the data lies; None for data in the store."""
    members: Mapping[str, tuple[Reference, ...]] = field(default_factory=dict)
    """By role."""

    @property
    def handle(self) -> Artifact:
        """It, opened, with what it refers to."""
        from tasks.kinds import KINDS

        opened: Any = KINDS[self.kind](self.path, self.content)
        opened.attach({role: [m.handle for m in several] for role, several in self.members.items()})
        return cast("Artifact", opened)


def all_of(members: Mapping[str, Sequence[Reference]]) -> Iterator[Reference]:
    """References of all roles, and what they refer to."""
    for several in members.values():
        for one in several:
            yield one
            yield from all_of(one.members)


class References:
    """Resolves what artifacts of the store at `root` refer to. `indexes`: of its records."""

    def __init__(self, root: Path, contents: Contents, indexes: Sequence[RecordIndex]) -> None:
        self._root, self._contents, self._indexes = root, contents, indexes

    def of(self, record: Record) -> Mapping[str, tuple[Reference, ...]]:
        """What a record's content refers to, by role. Raises DataError where that is gone, damaged or changed."""
        if error := self.error(record):
            raise DataError(f"{record.kind} {record.content[:12]} ({record.task}) cannot be used: {error}")
        return self._members(self._opened(record)) if record.refers_to else {}

    def error(self, record: Record) -> str:
        """What a record's content refers to that is not there, where it came from, what to do; empty if all is."""
        return self._error(self._opened(record)) if record.refers_to else ""

    def of_artifact(self, handle: Artifact) -> tuple[str, ...]:
        """Contents of all that a step's result refers to, directly or not. Raises DataError where something is not in
        the store, or an adapter's base is an adapter."""
        refers_to = handle.refers_to
        if not refers_to:
            return ()
        what = handle.noun or f"a {type(handle).__name__}"
        for role, several in refers_to.items():
            if not all(re.fullmatch("[0-9a-f]{32}", member.content) for member in several):
                raise DataError(
                    f"the step's result in {handle.path} is {what} that does not name its {role} by its content"
                )
        if error := self._error(handle):
            raise DataError(f"the step's result is {what}, and {error}")
        members = self._members(handle)
        for base in members.get("base", ()):
            if base.members:
                raise DataError(
                    f"the step's result is {what} of {base.kind} {base.content[:12]}, which is {what} itself"
                )
        return tuple(dict.fromkeys(one.content for one in all_of(members)))

    def _opened(self, record: Record) -> Artifact:
        from tasks.kinds import KINDS

        return KINDS[record.kind](self._root / record.path, record.content)

    def _members(self, handle: Artifact) -> dict[str, tuple[Reference, ...]]:
        """What a handle refers to, where `_error` finds nothing missing."""
        several = {role: [self._find(member) for member in members] for role, members in handle.refers_to.items()}
        return {role: tuple(self._whole(one) for one in found if one) for role, found in several.items()}

    def _whole(self, reference: Reference) -> Reference:
        members = self._members(reference.handle)
        return Reference(reference.kind, reference.content, reference.path, reference.location, members)

    def _error(self, handle: Artifact) -> str:
        """The first thing that is missing of what a handle refers to, directly or not; empty if nothing is."""
        for role, several in handle.refers_to.items():
            for member in several:
                found = self._find(member)
                if found is None:
                    return self._missing(role, member)
                if error := self._error(found.handle):
                    return f"its {role} is {found.kind} {found.content[:12]}, which cannot be used: {error}"
        return ""

    def _find(self, member: Member) -> Reference | None:
        return next((one for one in self._places(member) if self._is_intact(one)), None)

    def _places(self, member: Member) -> Iterator[Reference]:
        """Where data of this content may lie: under its content; where records say, if a link was removed."""
        content, kinds = member.content, [member.kind] if member.kind else sorted(MODELS)
        for kind in kinds:
            path = self._root / kind / content
            yield Reference(kind, content, path, path.resolve() if path.is_symlink() else None)
        for record in self._records(content):
            if record.location and record.kind in kinds:
                yield Reference(record.kind, content, Path(record.location), Path(record.location))

    def _is_intact(self, reference: Reference) -> bool:
        return reference.path.is_dir() and self._contents.digest(reference.path) == reference.content

    def _missing(self, role: str, member: Member) -> str:
        """What became of an artifact that another one refers to, and how to get it back."""
        content, kind = member.content, member.kind or "model"
        made = next(self._records(content), None)
        if made is None:
            return (
                f"its {role} is a {kind} of content {content}, which is not in the artifacts {self._root}: load that "
                f"{kind} by a step of a pipeline first"
            )
        what = f"its {role} is {made.kind} {content[:12]} (made by `{made.task}` {made.made[:16].replace('T', ' ')})"
        if made.location:
            state = "has changed" if Path(made.location).is_dir() else "is gone"
            return f"{what} in {made.location}, and that folder {state}: put it back as it was"
        state = "was damaged" if (self._root / made.path).is_dir() else "is gone"
        return f"{what}, and that {state}: run the pipeline that made it again"

    def _records(self, content: str) -> Iterator[Record]:
        """The records of a content, those of keys first."""
        return (record for index in self._indexes for record in index.records(content))
