"""What is known of a conversation's later turns: the questions of all turns and their reference answers, in `truth`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.contract import JSON
from tasks.message import Message


def truth_of_turns(questions: Sequence[str], references: Sequence[str]) -> dict[str, JSON]:
    """What the column `truth` holds of a conversation: the users' texts in order, and reference answers to them, where
    there are any."""
    return {"turns": [*questions], **({"reference": [*references]} if references else {})}


def following_question(truth: str | None, prompt: Sequence[Message]) -> str | None:
    """The text of the turn behind those of the prompt; None where the conversation ends with them."""
    return _at(_read(truth).get("turns"), sum(m["role"] == "user" for m in prompt))


def reference_answer(truth: str | None, prompt: Sequence[Message]) -> str:
    """The reference answer to the prompt's last turn; empty where there is none."""
    return _at(_read(truth).get("reference"), sum(m["role"] == "user" for m in prompt) - 1) or ""


def _read(truth: str | None) -> Mapping[str, Any]:
    try:
        value = json.loads(truth or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _at(texts: Any, turn: int) -> str | None:
    known = isinstance(texts, list) and 0 <= turn < len(texts) and isinstance(texts[turn], str)
    return str(texts[turn]) if known else None
