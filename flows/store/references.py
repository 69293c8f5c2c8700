"""What artifacts refer to by content: an adapter cannot be opened without its base, the model whose weights it changes.

A base lies in the store under its content, as data or as a link to a user's folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flows.store.content import Contents
from flows.store.index import RecordIndex
from flows.store.records import Record
from flows.wiring.views import MODELS
from tasks.contract import DataError

if TYPE_CHECKING:
    from tasks.kinds import Artifact


class Reference(NamedTuple):
    """A model that an adapter refers to, where its data is intact."""

    kind: str
    content: str
    path: Path
    location: Path | None = None
    """The folder outside of the store where the data lies; None for data in the store."""


class References:
    """Resolves what artifacts of the store at `root` refer to. `indexes`: of its records."""

    def __init__(self, root: Path, contents: Contents, indexes: Sequence[RecordIndex]) -> None:
        self._root, self._contents, self._indexes = root, contents, indexes

    def of(self, record: Record) -> tuple[Reference, ...]:
        """What a record's content refers to. Raises DataError where that is gone, damaged or changed."""
        found = [self._find(content) for content in record.refers_to]
        if None in found:
            raise DataError(f"{record.kind} {record.content[:12]} ({record.task}) cannot be used: {self.error(record)}")
        return tuple(one for one in found if one)

    def error(self, record: Record) -> str:
        """Which base of a record's content is not there, where it came from and what to do; empty if all are."""
        return next((self._missing(content) for content in record.refers_to if not self._find(content)), "")

    def of_artifact(self, handle: Artifact) -> tuple[str, ...]:
        """What a step's result refers to. Raises DataError where that is not in the store, or is an adapter itself."""
        from tasks.kinds import Model

        if not isinstance(handle, Model) or handle.adapter is None:
            return ()
        digest = handle.base_digest
        if not re.fullmatch("[0-9a-f]{32}", digest):
            raise DataError(
                f"the step's result in {handle.path} is an adapter that does not name its base by its content"
            )
        base = self._find(digest)
        if base is None:
            raise DataError(f"the step's result is an adapter, and {self._missing(digest)}")
        if Model(base.path).adapter is not None:
            raise DataError(f"the step's result is an adapter of {base.kind} {digest[:12]}, which is an adapter itself")
        return (digest,)

    def _find(self, content: str) -> Reference | None:
        return next((one for one in self._places(content) if self._is_intact(one)), None)

    def _places(self, content: str) -> Iterator[Reference]:
        """Where a model of this content may lie: under its content; where records say, if a link was removed."""
        for kind in sorted(MODELS):
            path = self._root / kind / content
            yield Reference(kind, content, path, path.resolve() if path.is_symlink() else None)
        for record in self._records(content):
            if record.location:
                yield Reference(record.kind, content, Path(record.location), Path(record.location))

    def _is_intact(self, reference: Reference) -> bool:
        return reference.path.is_dir() and self._contents.digest(reference.path) == reference.content

    def _missing(self, content: str) -> str:
        """What became of a base, and how to get it back."""
        made = next(self._records(content), None)
        if made is None:
            return (
                f"its base is a model of content {content}, which is not in the artifacts {self._root}: load that "
                "model by a step of a pipeline first"
            )
        base = f"its base is {made.kind} {content[:12]} (made by `{made.task}` {made.made[:16].replace('T', ' ')})"
        if made.location:
            state = "has changed" if Path(made.location).is_dir() else "is gone"
            return f"{base} in {made.location}, and that folder {state}: put it back as it was"
        state = "was damaged" if (self._root / made.path).is_dir() else "is gone"
        return f"{base}, and that {state}: run the pipeline that made it again"

    def _records(self, content: str) -> Iterator[Record]:
        """The records of a content, those of keys first."""
        return (record for index in self._indexes for record in index.records(content))
