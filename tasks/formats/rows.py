"""The formats of rows that are understood: recognised over all columns of a file, the most specific one first.

A row that stands for no prompt, answer or pair raises `Unusable`: it is counted, named and skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tasks.contract import DataError
from tasks.formats.answers import (
    CHOSEN_REJECTED,
    COMPARED,
    COMPLETIONS,
    SINGLE,
    AnswerColumns,
    Example,
    common_text,
    last_turn,
    number,
)
from tasks.formats.columns import Columns, Row, possible_prompts
from tasks.formats.messages import is_dialogue
from tasks.formats.prompts import (
    NAMES,
    TOOLS,
    PromptColumns,
    Unusable,
    answerable,
    find_conversation,
    find_prompt,
    find_system,
    with_system,
    with_tools,
)
from tasks.message import Message

ALWAYS_USED = ("truth", "group", "weight")


class Format(NamedTuple):
    """How the rows of a file are read. A row without a value in one of the columns `needs` is skipped."""

    name: str
    needs: tuple[str, ...]
    uses: frozenset[str]
    parse: Callable[[Row], Example]
    gives: tuple[str, ...]

    def unused(self, columns: Columns) -> list[str]:
        """Names of the columns that no reader looks at."""
        return sorted(columns.keys() - self.uses)

    def read(self, row: Row) -> Example:
        """What a row says. Raises Unusable."""
        missing = [c for c in self.needs if row.get(c) is None]
        if missing:
            raise Unusable(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing or null")
        try:
            example = self.parse(row)._replace(weight=number(row, "weight"))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as e:
            raise Unusable(str(e) if isinstance(e, DataError) else f"it does not fit the format: {e}") from None
        return example._replace(prompt=answerable(example.prompt))


def recognise(columns: Columns) -> Format:
    """The most specific format that these columns make. Raises DataError where they make none or could make several."""
    compared = next((a for a in COMPARED if set(a.columns) <= columns.keys()), None)
    if compared:
        asked = find_prompt(columns)
        return _within(columns) if asked is None and compared is CHOSEN_REJECTED else _with(asked, compared, columns)
    if "completion" in columns:
        return _with(find_prompt(columns), COMPLETIONS, columns)
    talk = find_conversation(columns)
    if talk and talk.name != "turns":
        return _conversations(talk, columns)
    single = next((a for a in SINGLE if set(a.columns) <= columns.keys()), None)
    return _with(find_prompt(columns), single, columns)


def describe() -> str:
    """What columns are understood, for messages."""
    pairs = "; ".join(", ".join(a.columns) for a in COMPARED)
    single = ", ".join(a.columns[0] for a in (COMPLETIONS, *SINGLE))
    return f"the prompt: {', '.join(NAMES)}; pairs: {pairs}; answers: {single}, or a conversation's last message"


def _format(
    name: str,
    needs: Sequence[str],
    columns: Columns,
    uses: Sequence[str],
    parse: Callable[[Row, list[Message]], Example],
    gives: Sequence[str],
    begun: Callable[[Row], list[Message]],
) -> Format:
    """`begun`: the messages that the prompt's own columns hold; a system column goes before them, tools beside."""
    system = find_system(columns)
    read_here = (*([system] if system else []), *needs, *uses, TOOLS)
    used = frozenset({*read_here, *ALWAYS_USED})
    shown = ", ".join(c for c in read_here if c in columns)

    def read(row: Row) -> Example:
        example = parse(row, begun(row))
        prompt = with_system(example.prompt, row.get(system)) if system else example.prompt
        return example._replace(prompt=with_tools(prompt, row.get(TOOLS)))

    return Format(f"{name} ({shown})", tuple(needs), used, read, ("prompts", *gives))


def _with(asked: PromptColumns | None, answers: AnswerColumns | None, columns: Columns) -> Format:
    if asked is None:
        raise DataError(
            f"none of the columns {sorted(columns)} is known to hold the prompt: rename the one that does to 'prompt'"
        )
    uses = (*asked.beside, *(answers.beside if answers else ()))
    if answers is None:
        return _format("prompts", [asked.name], columns, uses, lambda _, begun: Example(begun), (), asked.read)
    return _format(
        answers.name, [asked.name, *answers.columns], columns, uses,
        lambda row, begun: answers.read(row, begun, is_dialogue(row[asked.name])), answers.gives, asked.read,
    )  # fmt: skip


def _conversations(talk: PromptColumns, columns: Columns) -> Format:
    """The last answer is the demonstration, what stands before it the prompt."""
    return _format(
        "conversations, of which the last answer is learned", [talk.name], columns, (),
        lambda _, turns: Example(*last_turn(turns)), ("demonstrations",), talk.read,
    )  # fmt: skip


def _within(columns: Columns) -> Format:
    """Pairs whose prompt is in both sides: whole conversations, or plain strings that begin alike."""
    others = possible_prompts(columns)
    if others and any(columns[c].plain for c in ("chosen", "rejected")):
        raise DataError(
            f"none of the columns {sorted(columns)} is known to hold the prompt, and {' or '.join(others)} could: "
            "rename it to 'prompt', or remove it if the prompt is what 'chosen' and 'rejected' begin with"
        )
    plain = any(columns[c].plain for c in ("chosen", "rejected"))
    name = "pairs whose sides begin with the prompt" if plain else "pairs of whole conversations"
    return _format(name, CHOSEN_REJECTED.columns, columns, CHOSEN_REJECTED.beside, _whole, CHOSEN_REJECTED.gives,
                   lambda _: [])  # fmt: skip


def _whole(row: Row, begun: list[Message]) -> Example:
    plain = [isinstance(row[c], str) and not is_dialogue(row[c]) for c in ("chosen", "rejected")]
    if all(plain):
        return common_text(row)
    if any(plain):
        raise Unusable("one side is a conversation and the other is none")
    return CHOSEN_REJECTED.read(row, begun, False)
