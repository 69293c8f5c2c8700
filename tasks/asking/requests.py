"""Requests: the whole of what a server receives, which is the identity of a question."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from tasks.contract import JSON, SpecError
from tasks.ids import digest

CHAT = "/chat/completions"
UNKNOWN_LENGTH = 16_384
"""Tokens that a reply may have where the request states no limit, for the budget."""
_PER_MESSAGE = 32
"""Tokens that a chat template may add to a message, for the budget."""


class Tokens(NamedTuple):
    prompt: int
    reply: int


@dataclass(frozen=True)
class ChatRequest:
    """The body of a request, and which of several samples of its answer is meant."""

    body: Mapping[str, JSON]
    sample: int = 0

    @cached_property
    def digest(self) -> str:
        """The question's identity beside the server's."""
        return digest(json.dumps(self.body, sort_keys=True, ensure_ascii=False), str(self.sample))

    @cached_property
    def at_most(self) -> Tokens:
        """An estimate from above of what is paid: no tokenizer makes more tokens than a text has bytes."""
        messages: Any = self.body["messages"]
        prompt = sum(len(m["content"].encode("utf-8", "replace")) + _PER_MESSAGE for m in messages)
        limits = [self.body.get(name) for name in ("max_completion_tokens", "max_tokens")]
        return Tokens(prompt, next((int(n) for n in limits if isinstance(n, int)), UNKNOWN_LENGTH))


@dataclass(frozen=True)
class ChatOptions:
    """What requests have besides their messages."""

    model: str
    temperature: float
    max_tokens: int
    samples: int = 1
    seed: int | None = None
    more: Mapping[str, JSON] = field(default_factory=dict)
    """Further fields of the body, of the user; None takes one away."""
    fields: Mapping[str, JSON] = field(default_factory=dict)
    """Further fields of the body, of the mode."""

    def __post_init__(self) -> None:
        if self.samples > 1 and not self.temperature:
            raise SpecError(f"`replies` = {self.samples} at temperature 0 would all be equal: set `temperature`")

    def requests(self, messages: Sequence[Mapping[str, str]]) -> list[ChatRequest]:
        """One request per sample."""
        shown: list[JSON] = [dict(message) for message in messages]
        body: dict[str, JSON] = {
            "model": self.model, "messages": shown, "temperature": self.temperature, "max_tokens": self.max_tokens,
            **self.fields,
        }  # fmt: skip
        return [ChatRequest(self._completed(body, sample), sample) for sample in range(self.samples)]

    def _completed(self, body: Mapping[str, JSON], sample: int) -> dict[str, JSON]:
        seed: dict[str, JSON] = {} if self.seed is None else {"seed": self.seed + sample}
        return {name: x for name, x in {**body, **seed, **self.more}.items() if x is not None}


_OWN = ("messages", "model", "n", "stream")


def further_fields(text: str) -> Mapping[str, JSON]:
    """The parameter `extra_body`: a JSON object. Raises SpecError where it is none, or names what is not the user's."""
    try:
        fields = json.loads(text)
    except ValueError as e:
        raise SpecError(f"`extra_body` = {text[:80]!r} is not JSON: {e}") from None
    if not isinstance(fields, dict):
        raise SpecError(f"`extra_body` = {text[:80]!r}; it must be a JSON object of further fields of each request")
    if taken := [name for name in _OWN if name in fields]:
        raise SpecError(f"`extra_body` may not set {', '.join(taken)}: the oracle does")
    return fields
