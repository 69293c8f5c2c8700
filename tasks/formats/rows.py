"""Detection of the row format from all columns of a file, the most specific format first.

A row that is not a valid prompt, answer or pair raises `UnusableRow`: it is counted, listed and skipped.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tasks.contract import DataError
from tasks.formats.answers import (
    CHOSEN_REJECTED,
    COMPARED,
    COMPLETIONS,
    LABEL,
    SINGLE,
    TWO_ANSWERS,
    WINNER,
    AnswerColumns,
    Example,
    compared_columns,
    label_of,
    last_turn,
    number,
    pair_with_common_prefix,
)
from tasks.formats.columns import Columns, Row, possible_prompts
from tasks.formats.messages import is_dialogue
from tasks.formats.prompts import (
    NAMES,
    TOOLS,
    PromptColumns,
    UnusableRow,
    check_prompt,
    find_conversation,
    find_prompt,
    find_system,
    with_system,
    with_tools,
)
from tasks.message import Message

ALWAYS_USED = ("truth", "group", "weight")


class Format(NamedTuple):
    """How the rows of a file are parsed. A row without a value in one of the columns `required` is skipped."""

    name: str
    required: tuple[str, ...]
    uses: frozenset[str]
    parse: Callable[[Row], Example]
    provides: tuple[str, ...]

    def unused(self, columns: Columns) -> list[str]:
        """Columns that the format ignores."""
        return sorted(columns.keys() - self.uses)

    def read(self, row: Row) -> Example:
        """The parsed row. Raises UnusableRow."""
        missing = [c for c in self.required if row.get(c) is None]
        if missing:
            raise UnusableRow(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing or null")
        try:
            example = self.parse(row)._replace(weight=number(row, "weight"))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as e:
            raise UnusableRow(str(e) if isinstance(e, DataError) else f"invalid row: {e}") from None
        return example._replace(prompt=check_prompt(example.prompt))


def detect_format(columns: Columns) -> Format:
    """The most specific format with these columns. Raises DataError if none matches, or the prompt is ambiguous."""
    if compared := compared_columns(columns):
        prompt = find_prompt(columns)
        if prompt is None and compared is CHOSEN_REJECTED:
            return _whole_pairs(columns)
        return _with_prompt(prompt, compared, columns)
    if "completion" in columns:
        return _with_prompt(find_prompt(columns), COMPLETIONS, columns)
    conversation = find_conversation(columns)
    if conversation and conversation.name != "turns":
        return _conversations(conversation, columns)
    single = next((a for a in SINGLE if set(a.columns) <= columns.keys()), None)
    return _with_prompt(find_prompt(columns), single, columns)


def with_labels(form: Format, columns: Columns) -> Format:
    """The format of single answers whose rows also have a label; any other format as it is."""
    if LABEL not in columns or "demonstrations" not in form.provides or "labels" in form.provides:
        return form

    def parse(row: Row) -> Example:
        label = label_of(row)
        if label is None:
            raise UnusableRow(f"{LABEL} is missing or null")
        return form.parse(row)._replace(label=label)

    return form._replace(
        name=f"{form.name}, each with its {LABEL}", uses=form.uses | {LABEL}, parse=parse,
        provides=(*form.provides, "labels"),
    )  # fmt: skip


def pairs_of_lists(row: Row) -> list[tuple[tuple[str, str], Row]]:
    """The row itself, or one row for each pair where `chosen` or `rejected` lists several answers, with their places.

    The layout of RewardBench 2: every answer in `chosen` is better than every one in `rejected`.
    """
    lists = [_several(row.get(side)) for side in ("chosen", "rejected")]
    if not any(len(answers) > 1 for answers in lists):
        return [(("", ""), row)]
    chosen, rejected = (answers or [row.get(side)] for side, answers in zip(("chosen", "rejected"), lists, strict=True))
    return [
        ((f"/{i}", f"/{j}"), {**row, "chosen": better, "rejected": worse})
        for i, better in enumerate(chosen) for j, worse in enumerate(rejected)
    ]  # fmt: skip


def _several(value: Any) -> list[Any]:
    """The texts of a list that has nothing else; empty for any other value."""
    return list(value) if isinstance(value, list | tuple) and all(isinstance(x, str) for x in value) else []


def supported_columns() -> str:
    """The supported columns, for messages."""
    pairs = "; ".join(", ".join(a.columns) for a in COMPARED)
    pairs += f"; {', '.join(' and '.join(two) for two in TWO_ANSWERS)} with {', '.join(WINNER)} or annotator_…"
    single = ", ".join(a.columns[0] for a in (COMPLETIONS, *SINGLE))
    return f"the prompt: {', '.join(NAMES)}; pairs: {pairs}; answers: {single}, or a conversation's last message"


def _format(
    name: str,
    required: Sequence[str],
    columns: Columns,
    optional: Sequence[str],
    parse: Callable[[Row, list[Message]], Example],
    provides: Sequence[str],
    prompt_of: Callable[[Row], list[Message]],
) -> Format:
    """`prompt_of` reads the prompt's own columns; the system and tools columns are added here."""
    system = find_system(columns)
    used = (*([system] if system else []), *required, *optional, TOOLS)
    shown = ", ".join(c for c in used if c in columns)

    def read(row: Row) -> Example:
        example = parse(row, prompt_of(row))
        prompt = with_system(example.prompt, row.get(system)) if system else example.prompt
        return example._replace(prompt=with_tools(prompt, row.get(TOOLS)))

    return Format(f"{name} ({shown})", tuple(required), frozenset({*used, *ALWAYS_USED}), read, ("prompts", *provides))


def _with_prompt(prompt: PromptColumns | None, answers: AnswerColumns | None, columns: Columns) -> Format:
    if prompt is None:
        raise DataError(f"none of the columns {sorted(columns)} is a known name of the prompt: rename it to 'prompt'")
    optional = (*prompt.optional, *(answers.optional if answers else ()))
    if answers is None:
        return _format("prompts", [prompt.name], columns, optional, lambda _, text: Example(text), (), prompt.read)
    return _format(
        answers.name, [prompt.name, *answers.columns], columns, optional,
        lambda row, text: answers.read(row, text, is_dialogue(row[prompt.name])), answers.provides, prompt.read,
    )  # fmt: skip


def _conversations(conversation: PromptColumns, columns: Columns) -> Format:
    """The last answer is the demonstration; the messages before it are the prompt."""
    return _format(
        "conversations, of which the last answer is learned", [conversation.name], columns, (),
        lambda _, turns: Example(*last_turn(turns)), ("demonstrations",), conversation.read,
    )  # fmt: skip


def _whole_pairs(columns: Columns) -> Format:
    """Pairs that both contain the prompt: whole conversations, or plain strings with a common prefix."""
    others = possible_prompts(columns)
    if others and any(columns[c].plain for c in ("chosen", "rejected")):
        raise DataError(
            f"none of the columns {sorted(columns)} is a known name of the prompt, but {' or '.join(others)} could be "
            "the prompt: rename it to 'prompt', or remove it if 'chosen' and 'rejected' begin with the prompt"
        )
    plain = any(columns[c].plain for c in ("chosen", "rejected"))
    name = "pairs that begin with the prompt" if plain else "pairs of whole conversations"
    pair = CHOSEN_REJECTED
    return _format(name, pair.columns, columns, pair.optional, _whole_pair, pair.provides, lambda _: [])


def _whole_pair(row: Row, prompt: list[Message]) -> Example:
    plain = [isinstance(row[c], str) and not is_dialogue(row[c]) for c in ("chosen", "rejected")]
    if all(plain):
        return pair_with_common_prefix(row)
    if any(plain):
        raise UnusableRow("only one of chosen and rejected is a conversation")
    return CHOSEN_REJECTED.read(row, prompt, False)
