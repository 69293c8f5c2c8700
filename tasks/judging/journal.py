"""A journal of an oracle's answers, so that a step resumed after a kill repeats no query.

The inputs fix the order of the questions, and a shard is known by its first question and its size, so a second attempt
takes the answers to a shard from the first. Several ranks can share the questions: each queries
some of the shards and writes a journal of its own, and all receive the answers to all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.contract import DataError, Workspace, chunks
from tasks.digests import with_digest, without_digest
from tasks.files import atomic_replace, remove
from tasks.judging.session import Session
from tasks.queried import Queried
from tasks.ranks import Ranks, broadcast, gather_all, this_rank

Floats = npt.NDArray[np.float64]
Answers = Sequence[float | None] | Sequence[Sequence[float] | None]
"""A number for each question, or a list of as many for each."""


class Journal:
    """One line per shard of answers. Those of earlier attempts are read first; a damaged one is queried again.

    A shard is what `oracle` gets in one call; at most the answers to it are lost by a kill, where no store has them.
    One with a question that got no answer because it failed is not written, so that the next attempt asks it again.

    shared: the ranks of this step share the questions. Every rank must ask for the answers to the same ones.
    """

    def __init__(self, file: Path, work: Workspace, oracle: Queried | None = None, *, shared: bool = False) -> None:
        self._ranks = this_rank() if shared else Ranks()
        self._size = (oracle or Queried()).questions_per_call
        self._session = oracle.session if oracle and isinstance(oracle.session, Session) else None
        stored = _stored(file, work) if self._ranks.is_first else {}
        # Only then do the other ranks write: rank 0 has read the journals of earlier attempts.
        self._stored: dict[tuple[int, int], Answers] = broadcast(stored) if shared else stored
        self._file = (file if self._ranks.is_first else _of_rank(file, self._ranks.rank)).open("ab")
        self.queries = 0
        """Number of questions so far, including those of earlier attempts."""
        self.unanswered = 0

    def answers(self, count: int, query: Callable[[slice], Answers], numbers: int | None = None) -> Floats:
        """Answers to `count` questions, NaN for no answer; `query` is called for shards that are not in the journal.

        numbers: each answer is a list of so many, which gives `(count, numbers)`; None: it is one number.
        Raises DataError if it returns the wrong number of answers, or one that is not finite.
        """
        shards = {(self.queries + s.start, _size(s)): s for s in chunks(count, self._size)}
        found = {place: self._stored.pop(place) for place in shards if place in self._stored}
        missing = [place for place in shards if place not in found]
        mine = {place: self._queried(place, shards[place], query, count)
                for place in missing[self._ranks.rank :: self._ranks.world]}  # fmt: skip
        for several in gather_all(mine) if self._ranks.world > 1 and missing else [mine]:
            found |= several
        answers = np.empty(count if numbers is None else (count, numbers))
        empty = math.nan if numbers is None else [math.nan] * numbers
        for place, shard in shards.items():
            answers[shard] = [empty if x is None else x for x in found[place]]
        self.queries += count
        self.unanswered += int(np.isnan(answers.reshape(count, -1)).any(axis=1).sum()) if count else 0
        return answers

    def _queried(self, place: tuple[int, int], shard: slice, query: Callable[[slice], Answers], count: int) -> Answers:
        failed = self._failed
        if self._session:
            self._session.part = (shard.start, _size(shard), count)
        values = _checked(query(shard), _size(shard))
        if self._failed == failed:
            self._file.write(with_digest({"first": place[0], "answers": values}))
            self._file.flush()
        return values

    @property
    def _failed(self) -> int:
        return self._session.usage.failed if self._session else 0

    def failed(self) -> int:
        """Questions that got no answer in this attempt because they failed, of all ranks.

        Every rank must call it, after its last question: behind it all ranks have stored their answers.
        """
        return sum(gather_all(self._failed)) if self._ranks.world > 1 else self._failed

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()


def _stored(file: Path, work: Workspace) -> dict[tuple[int, int], Answers]:
    """The answers of earlier attempts by the number of their first question and how many they are.

    All lines are brought together in `file`.
    """
    others = sorted(file.parent.glob(f"{file.name}.rank*"))
    lines = [line for path in (file, *others) if path.exists() for line in path.read_bytes().splitlines(keepends=True)]
    stored: dict[tuple[int, int], Answers] = {}
    intact = []
    for line in lines:
        try:
            value = without_digest(line)
        except ValueError:
            if line.endswith(b"\n"):
                work.notice("a stored answer of the oracle is damaged; its questions are queried again")
        else:
            stored[value["first"], len(value["answers"])] = value["answers"]
            intact.append(line)
    if others or len(intact) < len(lines):
        with atomic_replace(file) as fresh:
            fresh.write_bytes(b"".join(intact))
        for path in others:
            remove(path)
    return stored


def _of_rank(file: Path, rank: int) -> Path:
    return file.with_name(f"{file.name}.rank{rank}")


def _size(shard: slice) -> int:
    return int(shard.stop - shard.start)


def _checked(answers: Answers, count: int) -> list[Any]:
    values = [_as_floats(x) for x in answers]
    if len(values) != count:
        raise DataError(f"the oracle returned {len(values)} answers to {count} questions")
    wrong = [x for x in values if x is not None and not np.isfinite(x).all()]
    if wrong:
        raise DataError(f"the oracle returned {wrong[0]} for {len(wrong)} of {count} questions; use None for no answer")
    return values


def _as_floats(answer: Any) -> Any:
    return None if answer is None else [*map(float, answer)] if isinstance(answer, Sequence) else float(answer)
