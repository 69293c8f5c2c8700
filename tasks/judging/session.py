"""What a live oracle asks through: each question is looked up before it is asked, and its answer stored as it comes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import uuid4

from tasks.answers.store import Answer, AnswerStore, Paid
from tasks.contract import JSON, DataError, Workspace
from tasks.files import temporary
from tasks.ids import digest

Ask = Callable[[Sequence[int]], Iterator[tuple[int, Answer]]]
"""Asks the questions of these numbers and yields (number, answer) as the answers come, in any order."""
_AskMany = Callable[[Sequence[int]], Iterable[Sequence[tuple[int, Answer]]]]
"""Yields several at a time, which are stored together."""

POLL_SECONDS, SLOWEST_POLL_SECONDS = 0.02, 1.0
"""How often to look for answers that another process is waiting for: at first, and after a while."""
PATIENCE_SECONDS = 5.0
"""How long to wait for another process before the user is shown that."""


@dataclass
class Usage:
    """What the questions of a step came to: over all attempts at the step, without those of its other ranks.

    A session counts all but `unparsed`, which the oracle counts.
    """

    asked: int = 0
    """Questions that were answered for this step, and are in the store since."""
    reused: int = 0
    """Questions whose answers were in the store, or which another step was asking at this moment."""
    failed: int = 0
    """Questions that got no answer in this attempt, and are asked again next time."""
    unparsed: int = 0
    """Answers of which nothing could be read."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    """Sum over the answers, which may have come at the same time."""

    def add(self, paid: Paid) -> None:
        for name, value in paid._asdict().items():
            setattr(self, name, getattr(self, name) + value)


class Session:
    """The questions of one step, or of one of its ranks, to oracles whose answers are stored."""

    def __init__(self, work: Workspace) -> None:
        self.work = work
        self.part = (0, 0, 0)
        """Of the questions of a table: the first of this call, how many it is, and how many there are, for progress."""

    @cached_property
    def store(self) -> AnswerStore:
        return AnswerStore(self.work.answers)

    @cached_property
    def usage(self) -> Usage:
        """What this process asked, and what earlier attempts did."""
        usage = Usage()
        usage.add(self.paid())
        return usage

    def paid(self) -> Paid:
        """What all ranks asked and reused in all attempts at the step so far."""
        return self.store.paid(self._payer) if (self.work.path / PAYER).exists() else Paid()

    @cached_property
    def _payer(self) -> str:
        """The name under which the store has what this step came to; a later attempt and other ranks have it too."""
        file = self.work.path / PAYER
        if not file.exists():
            fresh = temporary(file)
            fresh.write_text(uuid4().hex)
            with suppress(FileExistsError):  # another rank was faster
                os.link(fresh, file)
            fresh.unlink()
        return file.read_text()

    def answers(self, oracle: str, questions: Sequence[str], ask: Ask) -> list[Answer | None]:
        """The answers in the order of `questions`, which are digests: equal ones are one question.

        Those in the store are reused. `ask` is called with the numbers of the others, and each answer that it yields
        is stored at once. A question for which it yields none has failed: it is None here, and not stored. Questions
        that another process is asking at this moment are waited for; where they fail there, `ask` is called again.
        """
        return self._answers(oracle, questions, lambda numbers: ([one] for one in ask(numbers)))

    def _answers(self, oracle: str, questions: Sequence[str], ask: _AskMany) -> list[Answer | None]:
        usage = self.usage  # read before anything is added to it
        numbers = {question: i for i, question in reversed([*enumerate(questions)])}
        found = self._found(oracle, [*numbers])
        failed: set[str] = set()
        waited = _Wait(self.work)
        while missing := [q for q in numbers if q not in found and q not in failed]:
            mine = self.store.claim(oracle, missing)
            answered = self._asked(oracle, questions, sorted(numbers[q] for q in mine), ask, len(found)) if mine else {}
            failed |= mine - answered.keys()
            by_others = self._found(oracle, [q for q in missing if q not in mine])
            if not mine and not by_others:
                waited.a_little(len(missing))
            found |= answered | by_others
        usage.failed += len(failed)
        if self.store.damaged:
            self.work.notice(f"{self.store.damaged} stored answers were damaged; their questions were asked again")
            self.store.damaged = 0
        return [found.get(q) for q in questions]

    def _found(self, oracle: str, questions: Sequence[str]) -> dict[str, Answer]:
        """The stored answers; those for which another step paid are reused ones."""
        found = self.store.find_paid(oracle, questions)
        reused = Paid(reused=sum(payer != self._payer for _, payer in found.values()))
        if reused.reused:
            self.usage.add(reused)
            self.store.pay(self._payer, reused)
        return {question: answer for question, (answer, _) in found.items()}

    def _asked(
        self, oracle: str, questions: Sequence[str], numbers: Sequence[int], ask: _AskMany, done: int
    ) -> dict[str, Answer]:
        """Ask questions that this process has claimed, and store the answers."""
        answered: dict[str, Answer] = {}
        try:
            for several in ask(numbers):
                new = {questions[i]: answer for i, answer in several}
                self.store.add(oracle, new, payer=self._payer)
                for answer in new.values():
                    self.usage.add(Paid(1, 0, *answer[2:4], answer.cost, answer.seconds))
                answered |= new
                self._report(done + len(answered), len(questions))
        finally:
            self.store.release(oracle, [q for i in numbers if (q := questions[i]) not in answered])
        return answered

    def _report(self, done: int, of: int) -> None:
        first, size, total = self.part
        if total:
            self.work.progress(first + size * done // max(of, 1), total, "questions")

    def pay(
        self, *, asked: int = 0, reused: int = 0, tokens_in: int = 0, tokens_out: int = 0, cost: float = 0.0,
        seconds: float = 0.0,
    ) -> None:  # fmt: skip
        """Count what `answers` does not: requests that cost and gave no answer, answers that lie elsewhere."""
        paid = Paid(asked, reused, tokens_in, tokens_out, cost, seconds)
        self.usage.add(paid)
        self.store.pay(self._payer, paid)

    def stored(
        self, oracle: str, what: str, rows: Sequence[tuple[Any, ...]], function: Callable[..., Any]
    ) -> list[Any]:
        """Answers to rows of a function's arguments, of which it is given, as columns, those that the store has not."""

        def ask(numbers: Sequence[int]) -> Iterator[list[tuple[int, Answer]]]:
            start = time.monotonic()
            values = function(*map(list, zip(*(rows[i] for i in numbers), strict=True)))
            if len(values) != len(numbers):
                raise DataError(f"the oracle returned {len(values)} answers to {len(numbers)} questions")
            each = (time.monotonic() - start) / len(numbers)
            yield [(i, Answer(_plain(x), seconds=each)) for i, x in zip(numbers, values, strict=True)]

        questions = [digest(what, json.dumps(row, ensure_ascii=False)) for row in rows]
        return [None if a is None else a.value for a in self._answers(oracle, questions, ask)]

    def close(self) -> None:
        """Close the store, if it was used."""
        if "store" in self.__dict__:
            self.store.close()


def _plain(value: Any) -> JSON:
    """A number or several as JSON has them, whatever library they are of."""
    return None if value is None else [*map(float, value)] if isinstance(value, Sequence) else float(value)


PAYER = "payer"
"""File in a step's folder, with its name in the store."""


class _Wait:
    """Waiting for the answers to questions that other processes ask."""

    def __init__(self, work: Workspace) -> None:
        self._work, self._start, self._pause, self._shown = work, time.monotonic(), POLL_SECONDS, False

    def a_little(self, questions: int) -> None:
        if not self._shown and time.monotonic() - self._start > PATIENCE_SECONDS:
            self._shown = True
            self._work.notice(f"waits for the answers to {questions} questions that another process is asking now")
        self._work.count()  # a sign of life
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, SLOWEST_POLL_SECONDS)
