"""Conversations as people write them (message lists, plain strings, HH-RLHF dialogues) to lists of messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.contract import DataError

_ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant",
    "system": "system", "tool": "tool",
}  # fmt: skip
_DIALOGUE = re.compile(r"\s*Human:.*\n\nAssistant:", re.S)
_TURN = re.compile(r"\n\n(Human|Assistant):")


Message = dict[str, str]
"""One turn: `role` (system, user, assistant, tool) and `content`."""


def is_dialogue(value: Any) -> bool:
    """Whether `value` is a string in HH-RLHF's style: `\\n\\nHuman: … \\n\\nAssistant: …`."""
    return isinstance(value, str) and _DIALOGUE.match(value) is not None


def has_turns(text: str) -> bool:
    """Whether an answer's text goes on with further turns of an HH-RLHF dialogue."""
    return _TURN.search(text) is not None


def messages(value: Any) -> list[Message]:
    """A message list (`role`/`content` or `from`/`value`), an HH-RLHF dialogue, or one user's plain text.

    Empty turns vanish and neighbours of one role are joined, because chat templates ask for alternating roles; an
    HH-RLHF prompt's trailing `Assistant:` is the generation prompt and no message. Raises DataError.
    """
    if isinstance(value, str):
        return _merged(_turns(value)) if is_dialogue(value) else [{"role": "user", "content": value}]
    if isinstance(value, (list, tuple)):
        return _merged(_message(m) for m in value)
    raise DataError(f"a conversation is a string or a list of messages, not {_brief(value)}")


def text(value: Any) -> str:
    """An answer's text: a plain string, one message, or a list of one message."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, Mapping):
        return _message(value)["content"].strip()
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return text(value[0])
    raise DataError(f"an answer is a string or one message, not {_brief(value)}")


def _turns(dialogue: str) -> list[Message]:
    _, *parts = _TURN.split("\n\n" + dialogue.lstrip())
    return [_message({"role": r, "content": c.strip()}) for r, c in zip(parts[::2], parts[1::2], strict=True)]


def _message(value: Any) -> Message:
    if isinstance(value, str):
        return {"role": "user", "content": value}
    if not isinstance(value, Mapping):
        raise DataError(f"a message has 'role' and 'content', not {_brief(value)}")
    role, content = value.get("role", value.get("from", "user")), value.get("content", value.get("value"))
    if str(role).lower() not in _ROLES or not isinstance(content, str):
        raise DataError(f"a message has 'role' (one of {sorted(_ROLES)}) and a text 'content', not {_brief(value)}")
    return {"role": _ROLES[str(role).lower()], "content": content}


def _merged(turns: Iterable[Message]) -> list[Message]:
    out: list[Message] = []
    for turn in turns:
        if not turn["content"].strip():
            continue
        if out and out[-1]["role"] == turn["role"]:
            out[-1] = {"role": turn["role"], "content": out[-1]["content"] + "\n\n" + turn["content"]}
        else:
            out.append(turn)
    return out


def _brief(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown[:80]}{'…' if len(shown) > 80 else ''}"
