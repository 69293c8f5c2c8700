"""A server of models: where it is, which of its models answers, and how much may be asked of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from tasks.contract import SpecError
from tasks.ids import digest

UNKEYED = {"os.environ": "the key that a server wants of its users, which changes no answer"}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HIDDEN = "[key]"
"""What stands in texts in place of a key."""


@dataclass(frozen=True)
class Endpoint:
    """Whose answer it is: part of the identity of every question."""

    url: str
    """Up to and without `/chat/completions`, e.g. `http://127.0.0.1:8000/v1`."""
    model: str
    version: str = ""
    """What the user declares: a server may put other weights behind one name."""

    @property
    def identity(self) -> str:
        """Under which the answers are stored."""
        return f"chat:{digest(self.url.rstrip('/'), self.model, self.version)}"


@dataclass(frozen=True)
class AskingLimits:
    """How a server is asked. Nothing of it changes an answer."""

    api_key_env: str | None = None
    concurrency: int = 32
    """Requests under way at once."""
    timeout: float = 120.0
    """Seconds for one request, from the first byte sent to the last byte received."""
    retries: int = 8
    """Further attempts for a question whose attempt failed."""
    max_queries: int | None = None
    max_cost: float | None = None
    price_in: float = 0.0
    """Of a million tokens of prompts, in the currency of `max_cost`."""
    price_out: float = 0.0
    """Of a million tokens of answers."""

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """What these tokens cost."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


def check_endpoint(endpoint: Endpoint, limits: AskingLimits) -> None:
    """Raise SpecError where the parameters cannot be those of a server."""
    parts = urlsplit(endpoint.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(
            f"`url` = {endpoint.url!r}; it must be like https://host/v1, without /chat/completions behind it"
        )
    if parts.username or parts.password or parts.query:
        raise SpecError("`url` must have no user, password or query: it is recorded. Name the variable of the "
                        "environment that holds the key: `api_key_env`")  # fmt: skip
    if limits.max_cost is not None and not limits.price_in and not limits.price_out:
        raise SpecError(
            "`max_cost` needs `price_in` and `price_out`: what a million tokens of prompts, and of replies, cost"
        )  # fmt: skip
    if limits.api_key_env is not None and not _NAME.fullmatch(limits.api_key_env):
        raise SpecError("`api_key_env` must be the name of a variable of the environment, never the key itself")


def key_of(limits: AskingLimits) -> str:
    """The key, empty for a server that wants none. Raises SpecError where the variable has no value."""
    if limits.api_key_env is None:
        return ""
    key = os.environ.get(limits.api_key_env, "").strip()
    if not key:
        raise SpecError(f"`api_key_env` names the variable {limits.api_key_env}, which has no value: export it where "
                        "the run starts, or leave `api_key_env` out for a server that wants no key")  # fmt: skip
    return key


def without_key(text: str, key: str) -> str:
    """A server's text in which the key does not appear, should it have been repeated there."""
    return text.replace(key, HIDDEN) if key else text
