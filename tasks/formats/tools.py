"""Tools as files write them, to the one layout that chat templates read (OpenAI's, as transformers documents it).

A call is {"type": "function", "function": {"name", "arguments"}} and its arguments are an object, also where the file
has them as JSON text; a definition is {"type": "function", "function": {"name", "description", "parameters"}}. Bare
functions, as ShareGPT files have them, are put into that layout. Whatever else a call or a definition holds is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tasks.contract import DataError


def definitions(value: Any) -> list[dict[str, Any]]:
    """The tools of a row: a list of definitions, or the same as JSON text. Raises DataError."""
    found = _parsed(value, "`tools`")
    if not isinstance(found or [], (list, tuple)) or not all(map(_is_function, found or ())):
        raise DataError("`tools` holds no list of definitions with names: rename it if something else is meant")
    return [_wrapped(tool) for tool in found or ()]


def unpacked(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message; what a table of ours has in `extra` (`tasks/message.py`) is beside its other keys."""
    own = message.get("extra")
    return {**message, **json.loads(own)} if isinstance(own, str) and own.startswith("{") else message


def extra_keys(role: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """What chat templates read of a message besides its text; empty for nearly all. Raises DataError."""
    calls = _calls(message)
    tools = definitions(message.get("tools")) if role in ("system", "user") else []
    if calls and role != "assistant":
        raise DataError(f"a message of the {role} calls tools")
    names = ("name", "tool_call_id") if role == "tool" else ()
    return {
        **({"tools": tools} if tools else {}), **({"tool_calls": calls} if calls else {}),
        **{name: str(message[name]) for name in names if message.get(name)},
    }  # fmt: skip


def _calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = _parsed(message.get("tool_calls") or message.get("function_call"), "a call of a tool") or []
    return [_call(call) for call in (found if isinstance(found, (list, tuple)) else [found])]


def _call(value: Any) -> dict[str, Any]:
    if not _is_function(value):
        raise DataError("a call of a tool names no function")
    call = _wrapped(value)
    function = call["function"]
    arguments = _parsed(function.get("arguments") or {}, "the arguments of a call")
    if not isinstance(arguments, Mapping):
        raise DataError(f"the arguments of a call are {type(arguments).__name__} and no object")
    return {**call, "function": {**function, "arguments": arguments}}


def _wrapped(value: Mapping[str, Any]) -> dict[str, Any]:
    """The function in its layout. Tables fill missing keys with null, which is no key of the call."""
    known = {name: item for name, item in value.items() if item is not None}
    if "function" not in known:
        return {"type": "function", "function": known}
    return known if "type" in known else {"type": "function", **known}


def _is_function(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    function = value.get("function") or value
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _parsed(value: Any, what: str) -> Any:
    """The value; text is JSON."""
    if not isinstance(value, str) or not value.strip():
        return value if not isinstance(value, str) else None
    try:
        return json.loads(value)
    except ValueError:
        raise DataError(f"{what} is text that is no JSON: {value[:40]!r}") from None
