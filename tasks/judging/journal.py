"""A journal of an oracle's answers, so that a step resumed after a kill repeats no query.

The inputs fix the order of the questions, and shards have a fixed size and a number, so a second attempt takes the
answers to a shard from the first. Several ranks can share the questions: each queries some of the shards and writes a
journal of its own, and all receive the answers to all.
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
from tasks.ranks import Ranks, broadcast, gather_all, this_rank

Floats = npt.NDArray[np.float64]
Answers = Sequence[float | None] | Sequence[Sequence[float] | None]
"""A number for each question, or a list of as many for each."""

QUESTIONS_PER_SHARD = 64
"""Questions per call of the oracle; at most this many answers of each rank are lost by a kill."""


class Journal:
    """One line per shard of answers. Those of earlier attempts are read first; a damaged one is queried again.

    shared: the ranks of this step share the questions. Every rank must ask for the answers to the same ones.
    """

    def __init__(self, file: Path, work: Workspace, *, shared: bool = False) -> None:
        self._ranks = this_rank() if shared else Ranks()
        stored = _stored(file, work) if self._ranks.is_first else {}
        # Only then do the other ranks write: rank 0 has read the journals of earlier attempts.
        self._stored: dict[int, Answers] = broadcast(stored) if shared else stored
        self._file = (file if self._ranks.is_first else _of_rank(file, self._ranks.rank)).open("ab")
        self._next = 0
        self.queries = 0
        """Number of questions so far, including those of earlier attempts."""
        self.unanswered = 0

    def answers(self, count: int, query: Callable[[slice], Answers], numbers: int | None = None) -> Floats:
        """Answers to `count` questions, NaN for no answer; `query` is called for shards that are not in the journal.

        numbers: each answer is a list of so many, which gives `(count, numbers)`; None: it is one number.
        Raises DataError if it returns the wrong number of answers, or one that is not finite.
        """
        shards = dict(enumerate(chunks(count, QUESTIONS_PER_SHARD), self._next))
        self._next += len(shards)
        found = {n: self._stored.pop(n) for n, shard in shards.items() if len(self._stored.get(n, ())) == _size(shard)}
        missing = [n for n in shards if n not in found]
        mine = {n: self._queried(n, shards[n], query) for n in missing[self._ranks.rank :: self._ranks.world]}
        for several in gather_all(mine) if self._ranks.world > 1 and missing else [mine]:
            found |= several
        answers = np.empty(count if numbers is None else (count, numbers))
        empty = math.nan if numbers is None else [math.nan] * numbers
        for n, shard in shards.items():
            answers[shard] = [empty if x is None else x for x in found[n]]
        self.queries += count
        self.unanswered += int(np.isnan(answers.reshape(count, -1)).any(axis=1).sum()) if count else 0
        return answers

    def _queried(self, number: int, shard: slice, query: Callable[[slice], Answers]) -> Answers:
        values = _checked(query(shard), _size(shard))
        self._file.write(with_digest({"shard": number, "answers": values}))
        self._file.flush()
        return values

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()


def _stored(file: Path, work: Workspace) -> dict[int, Answers]:
    """The answers of earlier attempts by number of their shard, which are brought together in `file`."""
    others = sorted(file.parent.glob(f"{file.name}.rank*"))
    lines = [line for path in (file, *others) if path.exists() for line in path.read_bytes().splitlines(keepends=True)]
    stored: dict[int, Answers] = {}
    intact = []
    for line in lines:
        try:
            value = without_digest(line)
        except ValueError:
            if line.endswith(b"\n"):
                work.notice("a stored answer of the oracle is damaged; its questions are queried again")
        else:
            stored[value["shard"]] = value["answers"]
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
