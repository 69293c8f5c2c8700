"""Asks the questions of a step, through the store of answers, and ends the step where it must."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tasks.answers.store import Answer
from tasks.asking.background import items_of
from tasks.asking.batch import BatchFiles
from tasks.asking.endpoint import AskingLimits, Endpoint, check_endpoint, key_of
from tasks.asking.payments import Payments
from tasks.asking.reply import Reply, reply_of
from tasks.asking.requests import ChatRequest
from tasks.asking.stream import Outcome, answers_to
from tasks.contract import DataError
from tasks.judging.session import Session
from tasks.ranks import this_rank

QUESTIONS_PER_CALL = 100_000
"""A call ends when all of its questions are answered, so there are few calls: the server never waits for us."""


@dataclass(frozen=True)
class Asker:
    """A server, and how it is asked."""

    endpoint: Endpoint
    limits: AskingLimits
    batch: str | None = None
    """The folder of the files of the Batch API, instead of requests."""

    def __post_init__(self) -> None:
        check_endpoint(self.endpoint, self.limits)

    def replies(self, requests: Sequence[ChatRequest], session: Session) -> list[Reply]:
        """The replies in the order of the requests: from the store, else from the server.

        Raises SpecError where the key is missing; DataError where the budget is used up, the server refuses, or a
        question got no answer in all its attempts. What was answered is kept in all cases.
        """
        if self.batch is None:
            key_of(self.limits)  # even if the store has all answers: a wrong name would show only much later
        outcome = Outcome()
        with Payments(session.work.path, self.limits, this_rank().rank) as payments:

            def ask(numbers: Sequence[int]) -> Iterator[tuple[int, Answer]]:
                wanted = {i: requests[i] for i in numbers}
                if self.batch is not None:
                    yield from BatchFiles(Path(self.batch), self.endpoint, self.limits).answers(wanted, payments)
                    return
                stream = items_of(lambda: answers_to(wanted, self.endpoint, self.limits, payments, outcome))
                with closing(stream):
                    yield from stream

            answers = session.answers(self.endpoint.identity, [r.digest for r in requests], ask)
            _report_lost(session, payments)
        unanswered = sum(answer is None for answer in answers)
        if unanswered:
            raise _incomplete(outcome, unanswered, self)
        return [reply_of(answer.raw) for answer in answers if answer is not None]


def _report_lost(session: Session, payments: Payments) -> None:
    if payments.lost:
        most = f", at most {payments.perhaps_paid:.4g}" if payments.perhaps_paid else ""
        session.work.notice(
            f"{payments.lost} requests ended without a response that can be read (time-out, lost connection, stopped "
            f"step); the server may want them paid{most}, which the cost of the step does not include"
        )


def _incomplete(outcome: Outcome, unanswered: int, asker: Asker) -> DataError:
    kept = "what was answered is kept"
    if outcome.refused is not None:
        return DataError(f"{outcome.refused}; {unanswered} questions are not answered, and {kept}")
    if outcome.exhausted:
        return DataError(f"{outcome.exhausted}; {unanswered} questions are not answered, and {kept}: raise the limit "
                         "and run again")  # fmt: skip
    return DataError(
        f"{asker.endpoint.url}: {unanswered} questions got no answer, {outcome.failed} of them in "
        f"{asker.limits.retries + 1} attempts each (the last one: {outcome.last_error}); {kept}: see that the server "
        "runs, and run again"
    )
