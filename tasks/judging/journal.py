"""A journal of an oracle's answers, so that a step resumed after a kill repeats no query.

The inputs fix the order of the questions, and shards have a fixed size, so a second attempt reads the shards of the
first in order.
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

Floats = npt.NDArray[np.float64]
Answers = Sequence[float | None]

QUESTIONS_PER_SHARD = 64
"""Questions per call of the oracle; at most this many answers are lost by a kill."""


class Journal:
    """One line per shard of answers. Lines of an earlier attempt are read first; at a damaged line the rest is
    truncated and queried again."""

    def __init__(self, file: Path, work: Workspace) -> None:
        self._work = work
        self._file = file.open("r+b" if file.exists() else "w+b")
        self._replaying = True
        self.queries = 0
        """Number of questions so far, including those of earlier attempts."""
        self.unanswered = 0

    def answers(self, count: int, query: Callable[[slice], Answers]) -> Floats:
        """Answers to `count` questions, NaN for no answer; `query` is called for shards that are not in the journal.

        Raises DataError if it returns the wrong number of answers, or one that is not finite.
        """
        answers = np.empty(count)
        for shard in chunks(count, QUESTIONS_PER_SHARD):
            values = self._next_stored(shard.stop - shard.start)
            if values is None:
                values = _checked(query(shard), shard.stop - shard.start)
                self._file.write(with_digest({"answers": list(values)}))
                self._file.flush()
            answers[shard] = [math.nan if x is None else x for x in values]
        self.queries += count
        self.unanswered += int(np.isnan(answers).sum())
        return answers

    def _next_stored(self, count: int) -> list[float | None] | None:
        if not self._replaying:
            return None
        start = self._file.tell()
        line = self._file.readline()
        try:
            values: list[float | None] = without_digest(line)["answers"]
            if len(values) == count:
                return values
        except ValueError:
            if line.endswith(b"\n"):
                self._work.notice("a stored answer of the oracle is damaged; its questions are queried again")
        self._file.seek(start)
        self._file.truncate()
        self._replaying = False
        return None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()


def _checked(answers: Answers, count: int) -> list[float | None]:
    values = [None if x is None else float(x) for x in answers]
    if len(values) != count:
        raise DataError(f"the oracle returned {len(values)} answers to {count} questions")
    wrong = [x for x in values if x is not None and not math.isfinite(x)]
    if wrong:
        raise DataError(f"the oracle returned {wrong[0]} for {len(wrong)} of {count} questions; use None for no answer")
    return values
