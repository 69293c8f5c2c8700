"""What a live oracle asks through: each question is looked up before it is asked, and its answer stored as it comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tasks.answers.store import Answer, AnswerStore
from tasks.contract import Workspace
from tasks.ids import digest

Ask = Callable[[Sequence[int]], Iterator[tuple[int, Answer]]]
"""Asks the questions of these numbers and yields (number, answer) as the answers come, in any order."""


@dataclass
class Usage:
    """What the questions of a step came to. A session counts all but `unparsed`, which the oracle counts."""

    asked: int = 0
    """Questions that were answered now, and are in the store since."""
    reused: int = 0
    """Questions whose answers were in the store."""
    failed: int = 0
    """Questions that got no answer and are asked again next time."""
    unparsed: int = 0
    """Answers of which nothing could be read."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    """Sum over the answers, which may have come at the same time."""


class Session:
    """The questions of one step, or of one of its ranks, to oracles whose answers are stored."""

    def __init__(self, work: Workspace) -> None:
        self.work = work
        self.usage = Usage()

    @cached_property
    def store(self) -> AnswerStore:
        return AnswerStore(self.work.answers)

    def answers(self, oracle: str, questions: Sequence[str], ask: Ask) -> list[Answer | None]:
        """The answers in the order of `questions`, which are digests: equal ones are one question.

        Those in the store are reused. `ask` is called once with the numbers of the others, and each answer that it
        yields is stored at once. A question for which it yields none has failed: it is None here, and not stored.
        """
        found: dict[str, Answer] = self.store.find(oracle, questions)
        missing = {q: i for i, q in reversed([*enumerate(questions)]) if q not in found}
        self.usage.reused += len(set(questions)) - len(missing)
        for number, answer in ask(sorted(missing.values())) if missing else ():
            found[questions[number]] = answer
            self.store.add(oracle, {questions[number]: answer})
            self._count(answer)
        self.usage.failed += sum(q not in found for q in missing)
        return [found.get(q) for q in questions]

    def _count(self, answer: Answer) -> None:
        self.usage.asked += 1
        self.usage.tokens_in += answer.tokens_in
        self.usage.tokens_out += answer.tokens_out
        self.usage.cost += answer.cost
        self.usage.seconds += answer.seconds

    def stored(
        self, oracle: str, what: str, rows: Sequence[tuple[Any, ...]], function: Callable[..., Any]
    ) -> list[Any]:
        """Answers to rows of a function's arguments, of which it is given, as columns, those that the store has not."""

        def ask(numbers: Sequence[int]) -> Iterator[tuple[int, Answer]]:
            values = function(*map(list, zip(*(rows[i] for i in numbers), strict=True)))
            yield from ((i, Answer(value)) for i, value in zip(numbers, values, strict=True))

        questions = [digest(what, json.dumps(row, ensure_ascii=False)) for row in rows]
        return [None if a is None else a.value for a in self.answers(oracle, questions, ask)]
