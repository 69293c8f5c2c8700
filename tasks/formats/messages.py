"""Conversations as people write them (message lists, plain strings, HH-RLHF dialogues) to lists of messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.contract import DataError
from tasks.formats.tools import extra_keys, unpacked
from tasks.message import Message, with_extra

_ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "system": "system", "tool": "tool", "observation": "tool", "function": "tool",
    "function_call": "call",
}  # fmt: skip
_DIALOGUE = re.compile(r"\s*Human:.*\n\nAssistant:", re.S)
_TURN = re.compile(r"\n\n(Human|Assistant):")
_WRITTEN = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']\s*:""")


def is_dialogue(value: Any) -> bool:
    """Whether `value` is a string in HH-RLHF's style: `\\n\\nHuman: … \\n\\nAssistant: …`."""
    return isinstance(value, str) and _DIALOGUE.match(_unix(value)) is not None


def is_conversation(value: Any) -> bool:
    """Whether `value` is a list of messages."""
    return isinstance(value, (list, tuple)) and bool(value) and all(map(is_message, value))


def is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and bool({"role", "from"} & value.keys())


def has_turns(text: str) -> bool:
    """Whether an answer's text goes on with further turns of an HH-RLHF dialogue."""
    return _TURN.search(_unix(text)) is not None


def messages(value: Any) -> list[Message]:
    """A message list (`role`/`content` or `from`/`value`), an HH-RLHF dialogue, or one user's plain text.

    A message list is taken as it is. In a dialogue empty turns vanish and neighbours of one role are joined, and a
    prompt's trailing `Assistant:` is the generation prompt and no message. Raises DataError.
    """
    value = _listed(value)
    if isinstance(value, str):
        return _joined(_turns(_unix(value))) if is_dialogue(value) else [{"role": "user", "content": value}]
    if isinstance(value, (list, tuple)):
        return [_message(m) for m in value]
    raise DataError(f"a conversation is a string or a list of messages, not {type(value).__name__}")


def answer_messages(value: Any) -> list[Message]:
    """What answers a prompt: a plain string, one message, or a list of messages. Spaces are kept as they are."""
    value = _listed(value)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return answer_messages(value[0])
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    if isinstance(value, Mapping):
        return [_message({"role": "assistant", **value} if "from" not in value else value)]
    if isinstance(value, (list, tuple)) and value:
        return [_message(m) for m in value]
    raise DataError(f"an answer is a string or a list of messages, not {type(value).__name__}")


def _listed(value: Any) -> Any:
    """The value; messages by columns, as the `datasets` library's Sequence holds them, become a list of messages.

    Raises DataError for a conversation that became text, as tables do that are saved as CSV.
    """
    if isinstance(value, str) and _WRITTEN.match(value):
        raise DataError("a list of messages is written as text: save the table as .jsonl or .parquet instead of .csv")
    if is_message(value) and isinstance(value.get("role", value.get("from")), (list, tuple)):
        return [dict(zip(value, fields, strict=True)) for fields in zip(*value.values(), strict=True)]
    return value


def _unix(text: str) -> str:
    """Lines end as they do on Unix, whatever system wrote the dialogue."""
    return text.replace("\r\n", "\n")


def _turns(dialogue: str) -> list[Message]:
    _, *parts = _TURN.split("\n\n" + dialogue.lstrip())
    return [_message({"role": r, "content": c.strip()}) for r, c in zip(parts[::2], parts[1::2], strict=True)]


def _message(value: Any) -> Message:
    if isinstance(value, str):
        return {"role": "user", "content": value}
    if not isinstance(value, Mapping):
        raise DataError(f"a message has 'role' and 'content', and is no {type(value).__name__}")
    value = unpacked(value)
    said = str(value.get("role") or value.get("from") or "user")
    role = _ROLES.get(said.lower())
    if role is None:
        raise DataError(f"a message has the role '{said[:40]}', which is none of {sorted(_ROLES)}")
    content = next((value[name] for name in ("content", "value") if value.get(name) is not None), None)
    if role == "call":
        role, content, value = "assistant", None, {"tool_calls": content}
    extra = extra_keys(role, value)
    if content is None and extra.get("tool_calls"):
        content, extra = "", {"content": None, **extra}
    return with_extra({"role": role, "content": _content(content)}, **extra)


def _content(value: Any) -> str:
    """A message's text; text parts are joined as chat templates join them, with nothing between."""
    if isinstance(value, (list, tuple)):
        return "".join(map(_part, value))
    if not isinstance(value, str):
        raise DataError(f"a message's content is {type(value).__name__} and no text")
    return value


def _part(value: Any) -> str:
    if isinstance(value, str):
        return value
    kind = value.get("type", "text") if isinstance(value, Mapping) else type(value).__name__
    if kind != "text" or not isinstance(value.get("text"), str):
        raise DataError(f"a message has a part of type '{kind}'; only text can be read")
    return str(value["text"])


def _joined(turns: Iterable[Message]) -> list[Message]:
    out: list[Message] = []
    for turn in turns:
        if not turn["content"].strip():
            continue
        if out and out[-1]["role"] == turn["role"]:
            out[-1] = {"role": turn["role"], "content": out[-1]["content"] + "\n\n" + turn["content"]}
        else:
            out.append(turn)
    return out
