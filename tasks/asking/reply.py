"""What a server answered: the raw response is stored, and read again at each look-up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from tasks.asking.requests import Tokens


class Reply(NamedTuple):
    """A chat completion as far as it is used."""

    text: str
    whole: bool
    """Whether the model ended by itself: a reply that was cut at its length limit is not read."""
    first: Mapping[str, float]
    """Log-probabilities of the alternatives for the first token; empty where the server gave none."""
    tokens: Tokens | None
    """None where the server did not count."""


def reply_of(raw: str) -> Reply:
    """The reply in a response. Raises ValueError where it is no chat completion: cut, a page of a proxy, an error."""
    try:
        response = json.loads(raw)
        choice = response["choices"][0]
        text = choice["message"].get("content") or ""
        if not isinstance(text, str):
            raise ValueError("the content is not a text")
        return Reply(text, choice.get("finish_reason") != "length", _first(choice), _tokens(response.get("usage")))
    except (LookupError, TypeError, AttributeError) as e:
        raise ValueError(f"it is not a chat completion ({type(e).__name__}: {e})") from None


def _first(choice: Mapping[str, Any]) -> dict[str, float]:
    """Probabilities of equal texts would add up; servers list each token once."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    if not tokens:
        return {}
    return {one["token"]: float(one["logprob"]) for one in [tokens[0], *(tokens[0].get("top_logprobs") or [])]}


def _tokens(usage: Mapping[str, Any] | None) -> Tokens | None:
    if not usage or usage.get("prompt_tokens") is None:
        return None
    return Tokens(int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0))
