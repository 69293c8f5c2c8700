"""Where a row's prompt lies: which columns hold it, and how they become a conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tasks.contract import DataError
from tasks.formats.columns import Columns, Row
from tasks.formats.messages import messages
from tasks.formats.tools import definitions
from tasks.message import Message, with_extra


class Unusable(Exception):
    """This row cannot be used, and why; no fault of the file's format."""


class PromptColumns(NamedTuple):
    """The column that holds what was asked, those that add to it, and how a row is read."""

    name: str
    beside: tuple[str, ...]
    read: Callable[[Row], list[Message]]


TOOLS = "tools"
"""The column with the definitions of tools."""
SYSTEM = ("system", "system_prompt", "system_message")
"""Names of a column with the text of the system turn."""


def _plain(name: str) -> Callable[[Row], list[Message]]:
    return lambda row: messages(row[name])


def _instruction(row: Row) -> list[Message]:
    parts = (row.get(name) for name in ("instruction", "input", "context"))
    text = "\n\n".join(p.strip() for p in parts if p and p.strip())
    return [*_history(row.get("history")), *messages(text)]


def _history(value: Any) -> list[Message]:
    """Earlier turns as LLaMA-Factory writes them: a list of [what was asked, what was answered]."""
    turns = [(role, text) for pair in value or () for role, text in zip(("user", "assistant"), pair, strict=True)]
    return [{"role": role, "content": str(text)} for role, text in turns]


def _first_turn(row: Row) -> list[Message]:
    return messages([row["turns"][0]])


_BY_NAME = (
    PromptColumns("prompt", (), _plain("prompt")),
    PromptColumns("instruction", ("input", "context", "history"), _instruction),
    PromptColumns("question", (), _plain("question")),
    PromptColumns("query", (), _plain("query")),
    PromptColumns("input", (), _plain("input")),
)
CONVERSATIONS = tuple(PromptColumns(n, (), _plain(n)) for n in ("messages", "conversations", "conversation"))
TURNS = PromptColumns("turns", (), _first_turn)
NAMES = tuple(p.name for p in (*_BY_NAME, *CONVERSATIONS, TURNS))


def find_prompt(columns: Columns) -> PromptColumns | None:
    """The columns of the prompt by their names; `prompt` is never doubted. Raises DataError where several could be."""
    found = [p for p in _BY_NAME if p.name in columns]
    found = [p for p in found if not any(p.name in other.beside for other in found)]
    if len(found) > 1 and found[0].name != "prompt":
        names = " or ".join(f"'{p.name}'" for p in found)
        raise DataError(f"the prompt could be the column {names}: rename the right one to 'prompt'")
    return found[0] if found else find_conversation(columns)


def find_conversation(columns: Columns) -> PromptColumns | None:
    """The column that holds a conversation."""
    return next((p for p in (*CONVERSATIONS, TURNS) if p.name in columns), None)


def find_system(columns: Columns) -> str | None:
    return next((name for name in SYSTEM if name in columns), None)


def with_system(prompt: list[Message], text: Any) -> list[Message]:
    """The prompt behind a system turn, unless the text is empty or the prompt begins with that turn already."""
    if text is None or (isinstance(text, str) and not text.strip()):
        return prompt
    if not isinstance(text, str):
        raise Unusable(f"the system column holds {type(text).__name__} and no text")
    if not prompt or prompt[0]["role"] != "system":
        return [{"role": "system", "content": text}, *prompt]
    if prompt[0]["content"].strip() != text.strip():
        raise Unusable("the system column says something else than the conversation's own system turn")
    return prompt


def with_tools(prompt: list[Message], column: Any) -> list[Message]:
    """The prompt with the definitions of the tools that may be called, in its first message."""
    tools = definitions(column)
    return [with_extra(prompt[0], tools=tools), *prompt[1:]] if tools and prompt else prompt


def into_user(prompt: list[Message]) -> list[Message]:
    """The same prompt for templates without a system role: its text goes before the first user's message."""
    if prompt[0]["role"] != "system":
        return prompt
    system, first, *rest = prompt
    if first["role"] != "user":
        raise Unusable("no user's message follows the system turn, so that its text has no place")
    return [{**system, "role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def answerable(prompt: list[Message]) -> list[Message]:
    """The prompt, if it can be answered. Raises Unusable."""
    if not any(m["content"].strip() for m in prompt):
        raise Unusable("the prompt is empty")
    if prompt[-1]["role"] == "assistant":
        raise Unusable("the prompt ends with the assistant's own turn")
    if not any(m["role"] == "user" and m["content"].strip() for m in prompt):
        raise Unusable("the prompt has no user's message")
    return prompt
