"""The interface of data sources. A choice in `tasks/sources/` returns one, `tasks/load.py` reads from it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from tasks.contract import Chosen, SpecError
from tasks.kinds import Demonstrations, Labels, Preferences, Prompts, Scores, WinProbs
from tasks.skipped import RowLog

Answers = Literal["mixed", "golden"]


class Source:
    """Prompts, demonstrations, preferences, labels, scores, judgements, a policy: a source overrides what it provides.

    It records in a `RowLog` the rows that it reads and those that it skips.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        """As written by the user, for messages."""

    def pinned(self, identity: Mapping[str, str]) -> Self:
        """The same source, pinned to the commits or digests that `identity()` returned for the key."""
        return self

    def prompts(self, split: str, log: RowLog) -> Prompts:
        """The prompts of a split, each once, in a fixed order."""
        raise self._unsupported("prompts")

    def demonstrations(self, split: str, answers: Answers, log: RowLog) -> Demonstrations:
        """Gold answers to the prompts of a split; `golden`: only the best ones, if the source marks them."""
        raise self._unsupported("demonstrations")

    def preferences(self, split: str, log: RowLog) -> Preferences:
        """The pairs of a split."""
        raise self._unsupported("preferences")

    def labels(self, split: str, log: RowLog) -> Labels:
        """The answers of a split that people called desirable or undesirable; both occur."""
        raise self._unsupported("labels")

    def scores(self, split: str, attributes: Sequence[str] | None, log: RowLog) -> Scores:
        """The scored answers of a split. attributes: columns of the numbers; None: all that can be."""
        raise self._unsupported("scores")

    def judgements(
        self, split: str, annotators: Sequence[str] | None, log: RowLog, players: Sequence[str] | None = None
    ) -> WinProbs:
        """Verdicts on the pairs of a split, one row each. annotators: columns of verdicts; None: the format's own.
        players: columns that name the writers of both answers, whose names become the ids; None: ids of the answers."""
        raise self._unsupported("judgements")

    def policy(self) -> Path:
        """A checked local directory in the Hugging Face layout."""
        raise self._unsupported("policy")

    def adapter(self) -> Path:
        """A local directory with an adapter as peft stores it."""
        raise self._unsupported("adapter")

    def _unsupported(self, what: str) -> SpecError:
        provided = [n for n in _METHODS if getattr(type(self), n) is not getattr(Source, n)]
        return SpecError(f"source '{self.name}' has no {what}; it provides {', '.join(provided) or 'nothing'}")


_METHODS = ("prompts", "demonstrations", "preferences", "labels", "scores", "judgements", "policy", "adapter")


def opened(source: Chosen) -> Source:
    """The chosen source, at the commits or digests of its key."""
    made = source()
    if not isinstance(made, Source):
        raise TypeError(f"{source.module} must return a Source, not {type(made).__name__}")
    return made.pinned(source.identity)


class World(Source):
    """A source that generates its data from fixed rules and specifies how its base policy is made."""
