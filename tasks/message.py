"""One message of a conversation, and what it holds besides its text.

A message is `role` (system, user, assistant, tool) and `content`, and where there is more that chat templates read,
`extra`: a JSON object of `tool_calls` (an assistant's), `name` and `tool_call_id` (a tool's), `content` where it is
null beside calls, and in the first message of a prompt `tools`, the definitions of what may be called. Templates are
given these keys as they are written here. A message of a table without them has None there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Message = dict[str, str]
Conversation = Sequence[Mapping[str, str]]


def extra_of(message: Mapping[str, str]) -> dict[str, Any]:
    """What a message holds besides role and text; empty for nearly all."""
    found = message.get("extra")
    return dict(json.loads(found)) if found else {}


def with_extra(message: Mapping[str, str], **more: Any) -> Message:
    """The message with `more` beside what it holds. The order of keys is kept, since templates write it."""
    extra = {**extra_of(message), **more}
    bare = {"role": message["role"], "content": message["content"]}
    return {**bare, "extra": json.dumps(extra, ensure_ascii=False)} if extra else bare


def tools_of(conversation: Conversation) -> list[Any] | None:
    """Definitions of the tools that may be called; None where there are none."""
    found = extra_of(conversation[0]).get("tools") if conversation else None
    return list(found) if found else None


def for_template(message: Mapping[str, str]) -> dict[str, Any]:
    """The message as chat templates read it."""
    extra = {name: value for name, value in extra_of(message).items() if name != "tools"}
    return {"role": message["role"], "content": message["content"], **extra}


def needs_tools(conversation: Conversation) -> bool:
    """Whether tools are defined or called in it."""
    return any(True for _ in without_tools(conversation))


def without_tools(conversation: Conversation) -> Iterator[tuple[str, list[Message]]]:
    """What of it is about tools, and the conversation without that: the definitions, and each call by itself."""
    for i, message in enumerate(conversation):
        for what, rest in _less(message):
            yield what, [*map(dict, conversation[:i]), rest, *map(dict, conversation[i + 1 :])]


def _less(message: Mapping[str, str]) -> Iterator[tuple[str, Message]]:
    extra = extra_of(message)
    bare = {"role": message["role"], "content": message["content"]}
    if "tools" in extra:
        yield "the tools' definitions", with_extra(bare, **{k: v for k, v in extra.items() if k != "tools"})
    calls = extra.pop("tool_calls", [])
    for i in range(len(calls)):
        others = [*calls[:i], *calls[i + 1 :]]
        yield "a call of a tool", with_extra(bare, **extra, **({"tool_calls": others} if others else {}))


def conversation_text(conversation: Conversation) -> str:
    """A conversation in a few lines, for people; one plain message alone without its role."""
    if len(conversation) == 1 and not extra_of(conversation[0]):
        return conversation[0]["content"]
    return "\n".join(line for message in conversation for line in _lines(message))


def _lines(message: Mapping[str, str]) -> Iterator[str]:
    extra = extra_of(message)
    if extra.get("tools"):
        yield f"tools: {', '.join(str(tool['function'].get('name')) for tool in extra['tools'])}"
    calls = extra.get("tool_calls", ())
    if message["content"] or not calls:
        yield f"{message['role']}: {message['content']}"
    for call in calls:
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        yield f"{message['role']} calls {call['function']['name']}({arguments})"
