"""Answers kept as they come: a killed step asks an oracle nothing twice.

Questions come in an order fixed by the inputs, in shards of fixed size, so the shards that a first attempt wrote are
the first ones that the second one needs.
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
"""Questions that an oracle is asked together, and that a kill can lose."""


class Journal:
    """One line per shard of answers. Lines of an earlier attempt are read before new ones are written; from one that
    was damaged on, all is asked again."""

    def __init__(self, file: Path, work: Workspace) -> None:
        """work: gets a notice about a damaged line."""
        self._work = work
        self._file = file.open("r+b" if file.exists() else "w+b")
        self._old = True
        self.asked = 0
        """Questions behind the answers so far, those of earlier attempts included."""
        self.unanswered = 0

    def ask(self, count: int, ask: Callable[[slice], Answers]) -> Floats:
        """Answers to `count` questions, NaN where there is none; `ask` is called for the shards that are not kept.

        Raises DataError if it returns another number of answers than asked for, or one that is not finite.
        """
        answers = np.empty(count)
        for shard in chunks(count, QUESTIONS_PER_SHARD):
            found = self._kept(shard.stop - shard.start)
            if found is None:
                found = _checked(ask(shard), shard.stop - shard.start)
                self._file.write(with_digest({"answers": list(found)}))
                self._file.flush()
            answers[shard] = [math.nan if x is None else x for x in found]
        self.asked += count
        self.unanswered += int(np.isnan(answers).sum())
        return answers

    def _kept(self, count: int) -> list[float | None] | None:
        if not self._old:
            return None
        start = self._file.tell()
        line = self._file.readline()
        try:
            found: list[float | None] = without_digest(line)["answers"]
            if len(found) == count:
                return found
        except ValueError:
            if line.endswith(b"\n"):
                self._work.notice("an answer of the oracle that an earlier attempt kept was damaged; it is asked again")
        self._file.seek(start)
        self._file.truncate()
        self._old = False
        return None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()


def _checked(answers: Answers, count: int) -> list[float | None]:
    found = [None if x is None else float(x) for x in answers]
    if len(found) != count:
        raise DataError(f"the oracle gave {len(found)} answers to {count} questions")
    wrong = [x for x in found if x is not None and not math.isfinite(x)]
    if wrong:
        raise DataError(f"the oracle answered {wrong[0]} to {len(wrong)} of {count} questions; no answer is None")
    return found
