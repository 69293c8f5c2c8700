"""Conversion of message lists, plain strings and HH-RLHF dialogues to lists of messages."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.contract import DataError
from tasks.formats.tools import expand_extra, extra_keys
from tasks.message import Message, with_extra

_ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "system": "system", "tool": "tool", "observation": "tool", "function": "tool",
    "function_call": "call",
}  # fmt: skip
_DIALOGUE = re.compile(r"\s*Human:.*\n\nAssistant:", re.S)
_TURN = re.compile(r"\n\n(Human|Assistant):")
_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']\s*:""")


def is_dialogue(value: Any) -> bool:
    """Whether `value` is a string in HH-RLHF's style: `\\n\\nHuman: … \\n\\nAssistant: …`."""
    return isinstance(value, str) and _DIALOGUE.match(_unix_newlines(value)) is not None


def is_conversation(value: Any) -> bool:
    """Whether `value` is a list of messages."""
    return isinstance(value, (list, tuple)) and bool(value) and all(map(is_message, value))


def is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and bool({"role", "from"} & value.keys())


def has_turns(text: str) -> bool:
    """Whether an answer's text contains further turns of an HH-RLHF dialogue."""
    return _TURN.search(_unix_newlines(text)) is not None


def messages(value: Any) -> list[Message]:
    """The messages of a list (`role`/`content` or `from`/`value`), an HH-RLHF dialogue, or a user's plain text.

    In a dialogue, empty turns are dropped, consecutive turns of one role are merged, and a trailing `Assistant:` is
    the generation prompt, not a message. Raises DataError.
    """
    value = _as_list(value)
    if isinstance(value, str):
        return _merged(_turns(_unix_newlines(value))) if is_dialogue(value) else [{"role": "user", "content": value}]
    if isinstance(value, (list, tuple)):
        return [_message(m) for m in value]
    raise DataError(f"a conversation must be a string or a list of messages, not {type(value).__name__}")


def answer_messages(value: Any) -> list[Message]:
    """The messages of an answer: a plain string, one message, or a list of messages. Whitespace is preserved."""
    value = _as_list(value)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return answer_messages(value[0])
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    if isinstance(value, Mapping):
        return [_message({"role": "assistant", **value} if "from" not in value else value)]
    if isinstance(value, (list, tuple)) and value:
        return [_message(m) for m in value]
    raise DataError(f"an answer must be a string or a list of messages, not {type(value).__name__}")


def _as_list(value: Any) -> Any:
    """`value`; messages stored by column (the `datasets` library's Sequence) become a list of messages.

    Raises DataError for a message list that was saved as text, as in CSV files.
    """
    if isinstance(value, str) and _MESSAGES_AS_TEXT.match(value):
        raise DataError("a list of messages was saved as text: save the table as .jsonl or .parquet instead of .csv")
    if is_message(value) and isinstance(value.get("role", value.get("from")), (list, tuple)):
        return [dict(zip(value, fields, strict=True)) for fields in zip(*value.values(), strict=True)]
    return value


def _unix_newlines(text: str) -> str:
    return text.replace("\r\n", "\n")


def _turns(dialogue: str) -> list[Message]:
    _, *parts = _TURN.split("\n\n" + dialogue.lstrip())
    return [_message({"role": r, "content": c.strip()}) for r, c in zip(parts[::2], parts[1::2], strict=True)]


def _message(value: Any) -> Message:
    if isinstance(value, str):
        return {"role": "user", "content": value}
    if not isinstance(value, Mapping):
        raise DataError(f"a message must be an object with 'role' and 'content', not {type(value).__name__}")
    value = expand_extra(value)
    name = str(value.get("role") or value.get("from") or "user")
    role = _ROLES.get(name.lower())
    if role is None:
        raise DataError(f"a message has the unknown role '{name[:40]}'; the known roles are {sorted(_ROLES)}")
    content = next((value[name] for name in ("content", "value") if value.get(name) is not None), None)
    if role == "call":
        role, content, value = "assistant", None, {"tool_calls": content}
    extra = extra_keys(role, value)
    if content is None and extra.get("tool_calls"):
        content, extra = "", {"content": None, **extra}
    return with_extra({"role": role, "content": _content(content)}, **extra)


def _content(value: Any) -> str:
    """A message's text; text parts are concatenated, as chat templates do."""
    if isinstance(value, (list, tuple)):
        return "".join(map(_part, value))
    if not isinstance(value, str):
        raise DataError(f"the content of a message must be text, not {type(value).__name__}")
    return value


def _part(value: Any) -> str:
    if isinstance(value, str):
        return value
    kind = value.get("type", "text") if isinstance(value, Mapping) else type(value).__name__
    if kind != "text" or not isinstance(value.get("text"), str):
        raise DataError(f"a message has a part of type '{kind}'; only text is supported")
    return str(value["text"])


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
