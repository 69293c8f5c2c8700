"""The answers of a user's program, with those that failed counted and listed."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from platform import python_version
from typing import Any

from tasks.answers.store import Answer
from tasks.contract import DataError
from tasks.ids import digest
from tasks.judging.program_files import ProgramFiles
from tasks.judging.programs import Limits, ProgramPool, Verdict
from tasks.judging.session import Session

_SHOWN = 3
"""Reasons that a message quotes."""
Question = Mapping[str, Any]
"""`prompt`, `completion` and `truth`, as a program gets them."""


class ProgramAnswers:
    """Asks a program for a step. Nothing runs before the first question.

    stored: whether its answers are kept in the store of answers.
    """

    def __init__(self, files: ProgramFiles, limits: Limits, workers: int, max_failed: float, *, stored: bool) -> None:
        self._files, self._limits, self._workers = files, limits, workers or len(os.sched_getaffinity(0))
        self._max_failed, self._stored = max_failed, stored
        self._asked = 0
        self._failed: list[tuple[Question, Verdict]] = []
        self._noticed = False

    @cached_property
    def _pool(self) -> ProgramPool:
        return ProgramPool(self._files, self._limits, self._workers)

    @cached_property
    def _identity(self) -> str:
        """Of all that an answer depends on: files, function, limits, versions."""
        versions = [f"{name} {version}" for name, version in self._files.packages.items()]
        limits = f"{self._limits.seconds!r} s, {self._limits.memory!r} GiB"
        return digest("program", self._files.shown, self._pool.content, python_version(), limits, *versions)

    def of(
        self, prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None], session: Session
    ) -> list[float | None]:
        """One number for each row, None for no answer. Raises DataError where too large a share has failed."""
        questions = [
            {"prompt": [dict(message) for message in prompt or ()], "completion": completion, "truth": truth}
            for prompt, completion, truth in zip(prompts, completions, truths, strict=True)
        ]

        def ask(numbers: Sequence[int]) -> Iterator[tuple[int, Answer]]:
            yield from ((numbers[i], answer) for i, answer in self._answers([questions[n] for n in numbers]))

        self._asked += len(questions)
        if self._stored:
            digests = [digest("program", json.dumps(q, sort_keys=True)) for q in questions]
            answers = session.answers(self._identity, digests, ask)
        else:
            by_number = dict(ask(range(len(questions))))
            session.usage.asked += len(by_number)
            session.usage.failed += len(questions) - len(by_number)
            answers = [by_number.get(i) for i in range(len(questions))]
        if len(self._failed) > self._max_failed * self._asked:
            raise DataError(
                f"{self._share()}, and max_failed = {self._max_failed:g} allows fewer. {self._first()}. The step's log "
                "has all of them. Correct the program, or raise max_failed: answers that failed are null"
            )
        if self._failed and not self._noticed:
            self._noticed = True
            session.work.notice(f"{self._share()}; they are null, and the step's log has each with its output")
        return [None if answer is None else answer.value for answer in answers]  # type: ignore[misc]

    def _answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """(number, answer) as they come, without those that failed, which the step's log gets."""
        for number, verdict in self._pool.verdicts(questions):
            if verdict.failure:
                self._failed.append((questions[number], verdict))
                print(json.dumps(self._listed(questions[number], verdict), ensure_ascii=False), flush=True)
            else:
                yield number, Answer(verdict.value, seconds=verdict.seconds)

    def _listed(self, question: Question, verdict: Verdict) -> Mapping[str, Any]:
        return {"program": self._files.shown, "failure": verdict.failure, "output": verdict.output, **question}

    def _share(self) -> str:
        reasons = Counter(verdict.failure for _, verdict in self._failed).most_common(_SHOWN)
        share = f"{len(self._failed)} of {self._asked} answers ({len(self._failed) / self._asked:.1%})"
        return f"{self._files.shown} failed for {share}: {'; '.join(f'{n} × {reason}' for reason, n in reasons)}"

    def _first(self) -> str:
        question, verdict = self._failed[0]
        printed = f" and printed {verdict.output[-300:]!r}" if verdict.output else ""
        return f"The first was given the completion {question['completion'][:200]!r}{printed}"
