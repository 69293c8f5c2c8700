"""What a step may still ask: what is under way is reserved at the most that it can cost."""

from __future__ import annotations

import asyncio

from tasks.asking.endpoint import AskingLimits
from tasks.asking.payments import Payments
from tasks.asking.requests import ChatRequest


class Budget:
    """`max_queries` and `max_cost` of one step, all its attempts together."""

    def __init__(self, limits: AskingLimits, payments: Payments) -> None:
        self._limits, self._ledger = limits, payments
        self._under_way: dict[str, float] = {}
        self._freed = asyncio.Condition()
        self.exhausted = ""
        """Which limit was reached, as a sentence; empty: none."""

    async def reserve(self, request: ChatRequest) -> bool:
        """Wait until the question fits beside those under way. False: it never will, the budget is used up."""
        most = self._limits.cost(*request.at_most)
        async with self._freed:
            while (reason := self._too_much(most)) and self._under_way:
                await self._freed.wait()
            if reason:
                self.exhausted = reason
                return False
            self._under_way[request.digest] = most
            return True

    async def settle(self, request: ChatRequest) -> None:
        """The question is no longer under way; the payments have what it cost."""
        async with self._freed:
            del self._under_way[request.digest]
            self._freed.notify_all()

    def _too_much(self, most: float) -> str:
        limits, payments = self._limits, self._ledger
        if limits.max_queries is not None and payments.queries + len(self._under_way) >= limits.max_queries:
            return f"`max_queries` = {limits.max_queries} is reached"
        spent = payments.paid + payments.perhaps_paid + sum(self._under_way.values())
        if limits.max_cost is not None and spent + most > limits.max_cost:
            return (
                f"`max_cost` = {limits.max_cost:g} has no room for the next question, which can cost {most:.2g}: "
                f"{payments.paid:.4g} are paid" + (f", and {payments.perhaps_paid:.4g} may be" if payments.lost else "")
            )
        return ""
