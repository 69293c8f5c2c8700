"""When a failed attempt is made again."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tenacity import RetryCallState, wait_random_exponential

LONGEST_WAIT = 600.0
"""Seconds; a server that asks for a longer pause is not waited for."""
_BACKOFF = wait_random_exponential(multiplier=0.5, max=60)


class Failed(Exception):
    """An attempt failed, and another one may succeed."""

    def __init__(self, why: str, *, retry_after: float | None = None, billed: bool = False) -> None:
        super().__init__(why)
        self.retry_after = retry_after
        """Seconds that the server asks to wait."""
        self.billed = billed
        """Whether the server may have computed an answer, which is lost, and may want it paid."""


def wait_before_retry(state: RetryCallState) -> float:
    """Seconds: at least what the server asks for, else exponential backoff; with jitter, lest all come back at once."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, Failed) else None
    return float(_BACKOFF(state)) if asked is None else asked + random.uniform(0, max(0.05, 0.1 * asked))


def seconds_to_wait(header: str | None, now: datetime | None = None) -> float | None:
    """`Retry-After` as seconds from now: a number, or a date of HTTP; None where there is none that can be read."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            until = parsedate_to_datetime(header)
        except ValueError:
            return None
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        seconds = (until - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
