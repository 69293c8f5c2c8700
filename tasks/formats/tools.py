"""Conversion of tool definitions and calls to the layout of chat templates (OpenAI's, as transformers documents it).

A call is {"type": "function", "function": {"name", "arguments"}}; its arguments become an object if they are JSON
text. A definition is {"type": "function", "function": {"name", "description", "parameters"}}. Bare functions, as in
ShareGPT files, are converted to this layout. Other keys of a call or a definition are preserved.
"""

import json
from collections.abc import Mapping
from typing import Any

from tasks.contract import DataError


def tool_definitions(value: Any) -> list[dict[str, Any]]:
    """The tools of a row: a list of definitions, or its JSON text. Raises DataError."""
    tools = _parse_json(value, "`tools`") or []
    if not isinstance(tools, (list, tuple)) or not all(map(_is_function, tools)):
        raise DataError("`tools` must be a list of definitions with names; rename the column if it is something else")
    return [_with_function_key(tool) for tool in tools]


def expand_extra(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with the keys of its `extra` (`tasks/message.py`) at the top level."""
    extra = message.get("extra")
    return {**message, **json.loads(extra)} if isinstance(extra, str) and extra.startswith("{") else message


def extra_keys(role: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a message that chat templates read besides its text; usually empty. Raises DataError."""
    calls = _calls(message)
    tools = tool_definitions(message.get("tools")) if role in ("system", "user") else []
    if calls and role != "assistant":
        raise DataError(f"a {role} message calls tools")
    names = ("name", "tool_call_id") if role == "tool" else ()
    return {
        **({"tools": tools} if tools else {}), **({"tool_calls": calls} if calls else {}),
        **{name: str(message[name]) for name in names if message.get(name)},
    }  # fmt: skip


def _calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = _parse_json(message.get("tool_calls") or message.get("function_call"), "a tool call") or []
    return [_call(call) for call in (calls if isinstance(calls, (list, tuple)) else [calls])]


def _call(value: Any) -> dict[str, Any]:
    if not _is_function(value):
        raise DataError("a tool call has no function name")
    call = _with_function_key(value)
    function = call["function"]
    arguments = _parse_json(function.get("arguments") or {}, "the arguments of a tool call")
    if not isinstance(arguments, Mapping):
        raise DataError(f"the arguments of a tool call must be an object, not {type(arguments).__name__}")
    return {**call, "function": {**function, "arguments": arguments}}


def _with_function_key(value: Mapping[str, Any]) -> dict[str, Any]:
    """The function in OpenAI's layout, without the null keys that tables add."""
    known = {name: item for name, item in value.items() if item is not None}
    if "function" not in known:
        return {"type": "function", "function": known}
    return known if "type" in known else {"type": "function", **known}


def _is_function(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    function = value.get("function") or value
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _parse_json(value: Any, what: str) -> Any:
    """`value`; text is parsed as JSON, and blank text is None."""
    if not isinstance(value, str) or not value.strip():
        return value if not isinstance(value, str) else None
    try:
        return json.loads(value)
    except ValueError:
        raise DataError(f"invalid JSON in {what}: {value[:40]!r}") from None
