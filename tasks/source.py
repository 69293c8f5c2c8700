"""What a source of data can give. A choice of `tasks/sources/` returns one; `tasks/load.py` asks it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from tasks.contract import SpecError
from tasks.kinds import Demonstrations, Preferences, Prompts
from tasks.skipped import RowLog

Answers = Literal["mixed", "golden"]


class Source:
    """Some of: prompts, demonstrations, preferences, a policy. What a source does not override, it lacks.

    A source counts the rows that it reads in a `RowLog`, and names there those that it cannot use.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        """As the user wrote it, for messages."""

    def pinned(self, identity: Mapping[str, str]) -> Self:
        """The same source, held to what `identity()` said of the outside world when the key was made."""
        return self

    def prompts(self, split: str, log: RowLog) -> Prompts:
        """The prompts of a split, each once, in a fixed order."""
        raise self._lacks("prompts")

    def demonstrations(self, split: str, answers: Answers, log: RowLog) -> Demonstrations:
        """Gold answers to the prompts of a split; `golden`: the best ones known, where the source tells them apart."""
        raise self._lacks("demonstrations")

    def preferences(self, split: str, log: RowLog) -> Preferences:
        """The pairs of a split."""
        raise self._lacks("preferences")

    def policy(self) -> Path:
        """A checked local directory in the Hugging Face layout."""
        raise self._lacks("policy")

    def _lacks(self, what: str) -> SpecError:
        gives = [n for n in _GIVES if getattr(type(self), n) is not getattr(Source, n)]
        return SpecError(f"source '{self.name}' gives no {what}; it gives {', '.join(gives) or 'nothing'}")


_GIVES = ("prompts", "demonstrations", "preferences", "policy")


class World(Source):
    """A source that makes its data by rule, for ever the same, and says how its base policy is made."""
