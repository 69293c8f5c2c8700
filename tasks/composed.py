"""Artifacts that are made of others: `scorer.json` names the members by role and content, and holds the parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from tasks.artifact import Artifact, Member
from tasks.contract import JSON, Chosen, DataError

UNKEYED = {"tasks.contract.Chosen": "the function that opens it is in the key of every step with one as its oracle"}

MEMBERS = "scorer.json"


class Composed(Artifact):
    """A handle of what is made of other artifacts and opened by a function.

    That function stands in OPENERS of `flows/store/keys.py`, so that its code is in the key of each step that opens it.
    """

    opener: ClassVar[tuple[str, str]] = ("", "")
    """Folder and name of a function of the members, by role, and of the parameters."""

    def __init__(self, path: Path | None = None, digest: str = "") -> None:
        super().__init__(path, digest)
        self.members: Mapping[str, Sequence[Artifact]] = {}
        self._params: Mapping[str, JSON] = {}

    @classmethod
    def made_of(
        cls, members: Mapping[str, Sequence[Artifact]], params: Mapping[str, JSON], path: Path | None = None
    ) -> Self:
        """A scorer of these members. path: a directory in which it is saved now, beside other files of it."""
        scorer = cls()
        scorer.members, scorer._params = members, params
        if path is not None:
            scorer.save(path)
            scorer._path = path
        return scorer

    @property
    def refers_to(self) -> Mapping[str, Sequence[Member]]:
        if not (self.path / MEMBERS).exists():
            return {}
        members = self._saved["members"]
        return {role: [Member(m["content"], m["kind"]) for m in several] for role, several in members.items()}

    def attach(self, members: Mapping[str, Sequence[Artifact]]) -> None:
        self.members = members

    @property
    def params(self) -> Mapping[str, JSON]:
        """The parameters that it was made with."""
        return self._params if self._path is None else dict(self._saved["params"])

    @property
    def _saved(self) -> Mapping[str, Any]:
        file = self.path / MEMBERS
        try:
            return dict(json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            raise DataError(f"{file} is not a mapping in JSON, so it describes no scorer") from None

    @property
    def files(self) -> Mapping[str, Path]:
        """What the opener is given besides: none, or `path`."""
        return {}

    def open(self, dtype: str = "auto") -> Any:
        """The live oracle. Raises DataError where its members are missing: a store attaches them."""
        if not self.members:
            raise DataError(f"the members of {self.path} are not given: open it from a store, or `attach` them")
        return Chosen(*self.opener, {**self.params, "dtype": dtype})(**self.files, **self.members)

    def save(self, directory: Path) -> None:
        members = {
            role: [{"kind": type(m).__name__, "content": m.digest} for m in several]
            for role, several in self.members.items()
        }
        content = {"members": members, "params": dict(self.params)}
        (directory / MEMBERS).write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")
