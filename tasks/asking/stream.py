"""Many questions at once: as many as the limits allow are under way until none is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from tasks.answers.store import Answer
from tasks.asking.budget import Budget
from tasks.asking.client import Client, Refused
from tasks.asking.endpoint import AskingLimits, Endpoint
from tasks.asking.payments import Payments
from tasks.asking.requests import ChatRequest, Tokens
from tasks.asking.retries import Failed, wait_before_retry

GIVES_UP_AFTER = 8
"""So many questions in a row without an answer, or as many as are under way at once: the server is not there."""


@dataclass
class Outcome:
    """What became of the questions besides the answers."""

    exhausted: str = ""
    """Which limit ended the asking; empty: none."""
    failed: int = 0
    """Questions whose attempts all failed."""
    last_error: str = ""
    refused: Refused | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once nothing more is to be asked: the server refuses, or is not there."""
    _failed_in_a_row: int = 0

    def count_failure(self, error: Failed, limits: AskingLimits) -> None:
        """A question whose attempts all failed."""
        self.failed, self.last_error = self.failed + 1, str(error)
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= max(GIVES_UP_AFTER, limits.concurrency):
            self.ended.set()

    def count_answer(self) -> None:
        self._failed_in_a_row = 0

    def refuse(self, error: Refused) -> None:
        """Nothing more is asked."""
        self.refused = error
        self.ended.set()

    async def pause(self, seconds: float) -> None:
        """Wait before another attempt, unless nothing more is to be asked."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), seconds)


class ServerGone(Failed):
    """No further attempt is made, because the server is not there."""


async def answers_to(
    requests: Mapping[int, ChatRequest], endpoint: Endpoint, limits: AskingLimits, payments: Payments, outcome: Outcome
) -> AsyncIterator[tuple[int, Answer]]:
    """(number, answer) as the answers come; `outcome` is complete behind the last of them.

    When a limit is reached or the server refuses, nothing more is sent, and what is under way is still awaited.
    """
    answers: asyncio.Queue[tuple[int, Answer] | None] = asyncio.Queue()
    budget, waiting = Budget(limits, payments), iter(requests.items())
    async with Client(endpoint, limits) as client:

        async def worker() -> None:
            try:
                await _work(waiting, client, limits, payments, budget, outcome, answers)
            finally:
                answers.put_nowait(None)

        workers = [asyncio.create_task(worker()) for _ in range(min(limits.concurrency, len(requests)))]
        try:
            left = len(workers)
            while left:
                if (item := await answers.get()) is None:
                    left -= 1
                else:
                    yield item
            await asyncio.gather(*workers)
        finally:
            for one in workers:
                one.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    outcome.exhausted = budget.exhausted


async def _work(
    waiting: Iterator[tuple[int, ChatRequest]], client: Client, limits: AskingLimits, payments: Payments,
    budget: Budget, outcome: Outcome, answers: asyncio.Queue[tuple[int, Answer] | None],
) -> None:  # fmt: skip
    """One question after the other, from those that wait."""
    for number, request in waiting:
        if outcome.ended.is_set() or budget.exhausted or not await budget.reserve(request):
            return
        try:
            answer = await _retried(client, request, limits, payments, outcome)
        except Failed as e:
            outcome.count_failure(e, limits)
        except Refused as e:
            outcome.refuse(e)
        else:
            outcome.count_answer()
            answers.put_nowait((number, answer))
        finally:
            await budget.settle(request)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Failed) and not isinstance(error, ServerGone)


async def _retried(
    client: Client, request: ChatRequest, limits: AskingLimits, payments: Payments, outcome: Outcome
) -> Answer:
    """Attempts until one succeeds. Raises Failed, or Refused."""
    attempts = AsyncRetrying(
        retry=retry_if_exception(_may_pass), stop=stop_after_attempt(limits.retries + 1), wait=wait_before_retry,
        sleep=outcome.pause, reraise=True,
    )  # fmt: skip
    async for attempt in attempts:
        with attempt:
            if outcome.ended.is_set():
                raise outcome.refused or ServerGone(outcome.last_error)
            return await _attempt(client, request, payments)
    raise AssertionError("tenacity ends by a result or an error")


async def _attempt(client: Client, request: ChatRequest, payments: Payments) -> Answer:
    payments.sent(request)
    try:
        answer = await client.answer(request)
    except Failed as e:
        payments.failed(request, e.billed)
        raise
    except BaseException as e:
        payments.failed(request, not isinstance(e, Refused))
        raise
    payments.answered(request, Tokens(answer.tokens_in, answer.tokens_out))
    return answer
