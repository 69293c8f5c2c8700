"""Messages of conversations, with tool calls and tool definitions.

A message has `role` (system, user, assistant, tool), `content` and optionally `extra`, a JSON object of further keys
for chat templates: `tool_calls` (of an assistant), `name` and `tool_call_id` (of a tool), `content` if it is null
beside calls, and in the first message of a prompt `tools`, the tool definitions. In tables `extra` may be null.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Message = dict[str, str]
Conversation = Sequence[Mapping[str, str]]


def extra_of(message: Mapping[str, str]) -> dict[str, Any]:
    """The keys of a message besides role and content; usually empty."""
    extra = message.get("extra")
    return dict(json.loads(extra)) if extra else {}


def with_extra(message: Mapping[str, str], **more: Any) -> Message:
    """The message with `more` added to its extra keys. Their order is preserved, because templates write it."""
    extra = {**extra_of(message), **more}
    bare = {"role": message["role"], "content": message["content"]}
    return {**bare, "extra": json.dumps(extra, ensure_ascii=False)} if extra else bare


def tools_of(conversation: Conversation) -> list[Any] | None:
    """The tool definitions; None if there are none."""
    tools = extra_of(conversation[0]).get("tools") if conversation else None
    return list(tools) if tools else None


def for_template(message: Mapping[str, str]) -> dict[str, Any]:
    """The message in the layout of chat templates."""
    extra = {name: value for name, value in extra_of(message).items() if name != "tools"}
    return {"role": message["role"], "content": message["content"], **extra}


def uses_tools(conversation: Conversation) -> bool:
    """Whether the conversation defines or calls tools."""
    return any(True for _ in tool_ablations(conversation))


def tool_ablations(conversation: Conversation) -> Iterator[tuple[str, list[Message]]]:
    """(name, conversation without it) for the tool definitions and for each tool call."""
    for i, message in enumerate(conversation):
        for what, rest in _ablations(message):
            yield what, [*map(dict, conversation[:i]), rest, *map(dict, conversation[i + 1 :])]


def _ablations(message: Mapping[str, str]) -> Iterator[tuple[str, Message]]:
    extra = extra_of(message)
    bare = {"role": message["role"], "content": message["content"]}
    if "tools" in extra:
        yield "the tool definitions", with_extra(bare, **{k: v for k, v in extra.items() if k != "tools"})
    calls = extra.pop("tool_calls", [])
    for i in range(len(calls)):
        others = [*calls[:i], *calls[i + 1 :]]
        yield "a tool call", with_extra(bare, **extra, **({"tool_calls": others} if others else {}))


def conversation_text(conversation: Conversation) -> str:
    """A conversation as readable text; a single plain message without its role."""
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
