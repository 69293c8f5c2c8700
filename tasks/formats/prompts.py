"""Detection of the prompt's columns, and their conversion to a conversation."""

from collections.abc import Callable
from typing import Any, NamedTuple

from tasks.contract import DataError
from tasks.formats.columns import Columns, Row
from tasks.formats.messages import messages
from tasks.formats.tools import tool_definitions
from tasks.judging.turns import truth_of_turns
from tasks.message import Message, with_extra


class UnusableRow(Exception):
    """One row cannot be used, for the stated reason; the file's format is valid."""


class PromptColumns(NamedTuple):
    """The column of the prompt, optional columns that add to it, and the parser of a row."""

    name: str
    optional: tuple[str, ...]
    read: Callable[[Row], list[Message]]


TOOLS = "tools"
"""The column of tool definitions."""
SYSTEM = ("system", "system_prompt", "system_message")
"""Possible names of the system column."""


def _plain(name: str) -> Callable[[Row], list[Message]]:
    return lambda row: messages(row[name])


def _instruction(row: Row) -> list[Message]:
    parts = (row.get(name) for name in ("instruction", "input", "context"))
    text = "\n\n".join(p.strip() for p in parts if p and p.strip())
    return [*_history(row.get("history")), *messages(text)]


def _history(value: Any) -> list[Message]:
    """Earlier turns in LLaMA-Factory's format: a list of [question, answer]."""
    turns = [(role, text) for pair in value or () for role, text in zip(("user", "assistant"), pair, strict=True)]
    return [{"role": role, "content": str(text)} for role, text in turns]


def _first_turn(row: Row) -> list[Message]:
    return messages([row["turns"][0]])


def later_turns(row: Row) -> dict[str, Any]:
    """`truth` of a row in MT-bench's layout: its questions and reference answers; empty for one turn without any."""
    turns = [messages([turn])[0]["content"] for turn in row["turns"]]
    references = row.get("reference") or []
    references = [references] if isinstance(references, str) else [*map(str, references)]
    return {"truth": truth_of_turns(turns, references)} if len(turns) > 1 or references else {}


_BY_NAME = (
    PromptColumns("prompt", (), _plain("prompt")),
    PromptColumns("instruction", ("input", "context", "history"), _instruction),
    PromptColumns("question", (), _plain("question")),
    PromptColumns("query", (), _plain("query")),
    PromptColumns("input", (), _plain("input")),
)
CONVERSATIONS = tuple(PromptColumns(n, (), _plain(n)) for n in ("messages", "conversations", "conversation"))
TURNS = PromptColumns("turns", ("reference",), _first_turn)
NAMES = tuple(p.name for p in (*_BY_NAME, *CONVERSATIONS, TURNS))


def find_prompt(columns: Columns) -> PromptColumns | None:
    """The columns of the prompt, by their names. Raises DataError if several match and none is called `prompt`."""
    matches = [p for p in _BY_NAME if p.name in columns]
    matches = [p for p in matches if not any(p.name in other.optional for other in matches)]
    if len(matches) > 1 and matches[0].name != "prompt":
        names = " or ".join(f"'{p.name}'" for p in matches)
        raise DataError(f"the prompt could be the column {names}: rename the right one to 'prompt'")
    return matches[0] if matches else find_conversation(columns)


def find_conversation(columns: Columns) -> PromptColumns | None:
    """The column of whole conversations."""
    return next((p for p in (*CONVERSATIONS, TURNS) if p.name in columns), None)


def find_system(columns: Columns) -> str | None:
    return next((name for name in SYSTEM if name in columns), None)


def with_system(prompt: list[Message], text: Any) -> list[Message]:
    """The prompt after a system turn, unless the text is empty or the prompt already begins with that turn."""
    if text is None or (isinstance(text, str) and not text.strip()):
        return prompt
    if not isinstance(text, str):
        raise UnusableRow(f"the system column must contain text, not {type(text).__name__}")
    if not prompt or prompt[0]["role"] != "system":
        return [{"role": "system", "content": text}, *prompt]
    if prompt[0]["content"].strip() != text.strip():
        raise UnusableRow("the system column differs from the conversation's own system turn")
    return prompt


def with_tools(prompt: list[Message], column: Any) -> list[Message]:
    """The prompt with the tool definitions in its first message."""
    tools = tool_definitions(column)
    return [with_extra(prompt[0], tools=tools), *prompt[1:]] if tools and prompt else prompt


def system_into_user(prompt: list[Message]) -> list[Message]:
    """The prompt with the system text prepended to the first user message, for templates without a system role."""
    if prompt[0]["role"] != "system":
        return prompt
    system, first, *rest = prompt
    if first["role"] != "user":
        raise UnusableRow("no user message follows the system turn, to which its text could be prepended")
    return [{**system, "role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def check_prompt(prompt: list[Message]) -> list[Message]:
    """The prompt; raises UnusableRow if it cannot be answered."""
    if not any(m["content"].strip() for m in prompt):
        raise UnusableRow("the prompt is empty")
    if prompt[-1]["role"] == "assistant":
        raise UnusableRow("the prompt ends with the assistant's own turn")
    if not any(m["role"] == "user" and m["content"].strip() for m in prompt):
        raise UnusableRow("the prompt has no user message")
    return prompt
