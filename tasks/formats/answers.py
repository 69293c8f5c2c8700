"""Parsers for answer columns: pairs, annotated answers, completions. Each parser is given the prompt."""

import math
import re
from collections.abc import Callable
from os.path import commonprefix
from typing import Any, Literal, NamedTuple

from tasks.formats.columns import Columns, Row
from tasks.formats.messages import answer_messages, has_turns, is_dialogue, messages
from tasks.formats.prompts import UnusableRow, with_system
from tasks.formats.verdict_words import written_verdict
from tasks.message import Message, extra_of

Doubt = Literal["", "tie", "inverted", "undesirable"]
"""Why a row's label is doubtful: a tie, the rejected answer is better, or the answer is labelled undesirable."""


class Example(NamedTuple):
    """One parsed row. Empty answers are allowed here: `tokenize` counts and skips them."""

    prompt: list[Message]
    completion: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    p: float | None = None
    margin: float | None = None
    doubt: Doubt = ""
    weight: float | None = None
    label: bool | None = None
    """Whether the answer is desirable, where labels are read."""
    turned: bool = False
    """Whether the chosen answer is the second one in the row."""


class AnswerColumns(NamedTuple):
    """A layout of answer columns. `read` receives the row, the prompt's messages, and whether it is a dialogue."""

    name: str
    columns: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Row, list[Message], bool], Example]
    provides: tuple[str, ...]
    annotators: tuple[str, ...] = ()
    """Columns with the verdict of one annotator each."""


def last_turn(turns: list[Message]) -> tuple[list[Message], str | None]:
    """The messages before the assistant's last answer, and that answer (None if the conversation ends otherwise).

    Raises UnusableRow where the answer is a tool call.
    """
    if turns and turns[-1]["role"] == "assistant":
        if "tool_calls" in extra_of(turns[-1]):
            raise UnusableRow("the answer calls tools (tool_calls), but an answer must be text")
        return turns[:-1], turns[-1]["content"]
    return turns, None


def prompt_and_answer(prompt: list[Message], value: Any, dialogue: bool) -> tuple[list[Message], str]:
    """The conversation before the last answer of `value`, and that answer. `prompt`: from the prompt's columns.

    `value` is an answer, several messages that follow the prompt, or a whole conversation that contains the prompt.
    `dialogue`: the prompt is an HH-RLHF dialogue, whose answers begin with a separating space.
    """
    if is_dialogue(value):
        earlier, answer = last_turn(messages(value))
        return _consistent_prompt(prompt, earlier), answer or ""
    turns = answer_messages(value)
    earlier, answer = last_turn(turns)
    if answer is None:
        raise UnusableRow(f"an answer ends with the {turns[-1]['role']}'s turn")
    if any(m["role"] in ("user", "system") for m in earlier) and not _follows(prompt, earlier):
        return _consistent_prompt(prompt, earlier), answer
    return [*prompt, *earlier], answer.strip() if dialogue else answer


def _follows(prompt: list[Message], turns: list[Message]) -> bool:
    """Whether `turns` continue the prompt: they begin with the other side and do not repeat the prompt."""
    return bool(prompt) and turns[0]["role"] in ("assistant", "tool") and prompt[-1] not in turns


def _consistent_prompt(prompt: list[Message], whole: list[Message]) -> list[Message]:
    """`whole`, the conversation in an answer column. Raises UnusableRow where it does not contain the prompt."""
    if not prompt:
        return whole
    users = [m["content"].strip() for m in prompt if m["role"] == "user"]
    known = {m["content"].strip() for m in whole if m["role"] == "user"}
    if users and users[-1] not in known:
        raise UnusableRow("the conversation in the answer column does not contain the prompt")
    return with_system(whole, prompt[0]["content"]) if prompt[0]["role"] == "system" else whole


def _chosen_rejected(row: Row, prompt: list[Message], dialogue: bool) -> Example:
    chosen_prompt, chosen = prompt_and_answer(prompt, row["chosen"], dialogue)
    rejected_prompt, rejected = prompt_and_answer(prompt, row["rejected"], dialogue)
    if chosen_prompt != rejected_prompt:
        raise UnusableRow("the two conversations differ before their last turn")
    return _pair(row, chosen_prompt, chosen, rejected)


def pair_with_common_prefix(row: Row) -> Example:
    """A pair of plain strings whose prompt is their common prefix, up to the last space between two words."""
    a, b = str(row["chosen"]), str(row["rejected"])
    end = len(commonprefix([a, b]))  # noqa: RUF071
    while end and not a[end - 1].isspace():
        end -= 1
    if not a[:end].strip():
        raise UnusableRow("chosen and rejected have no common prefix that could be the prompt")
    return _pair(row, messages(a[:end].rstrip()), a[end:], b[end:])


def _labelled(row: Row, prompt: list[Message], dialogue: bool) -> Example:
    example = Example(*prompt_and_answer(prompt, row["completion"], dialogue))
    return example._replace(doubt="undesirable") if label_of(row) is False else example


def _single(column: str) -> Callable[[Row, list[Message], bool], Example]:
    def read(row: Row, prompt: list[Message], dialogue: bool) -> Example:
        return Example(*prompt_and_answer(prompt, row[column], dialogue))

    return read


def label_of(row: Row) -> bool | None:
    """Whether the column `label` calls the answer desirable: a bool, a number or a word; None where it is empty."""
    word = "_".join(re.split(r"[\s_]+|(?<=\w)-(?=\w)", str(row.get(LABEL)).strip().lower()))
    if word in ("none", ""):
        return None
    if word in _DESIRABLE or word in _UNDESIRABLE:
        return word in _DESIRABLE
    raise UnusableRow(
        f"invalid label {row.get(LABEL)!r}; use true or false, 1 or 0, thumbs_up or thumbs_down, desirable or "
        "undesirable"
    )


def _judged(a: str, b: str, share: Callable[[Row], float]) -> Callable[[Row, list[Message], bool], Example]:
    """A parser for two annotated answers: `share` returns the share of annotators that prefer the first."""

    def read(row: Row, prompt: list[Message], dialogue: bool) -> Example:
        p = share(row)
        better, worse = (a, b) if p >= 0.5 else (b, a)
        example = _chosen_rejected({**row, "chosen": row[better], "rejected": row[worse]}, prompt, dialogue)
        doubt = "tie" if p == 0.5 else example.doubt
        return example._replace(p=max(p, 1 - p) if 0 < p < 1 else None, doubt=doubt, turned=p < 0.5)

    return read


def _votes(annotators: tuple[str, ...]) -> Callable[[Row], float]:
    """The mean verdict of those annotators who gave one: 1 for the first answer, ½ for a tie."""

    def share(row: Row) -> float:
        known = [v for name in annotators if (v := written_verdict(row.get(name))) is not None]
        if not known:
            raise UnusableRow(f"{' and '.join(annotators)} holds no verdict" if len(annotators) == 1 else
                              f"none of {', '.join(annotators)} holds a verdict")  # fmt: skip
        return sum(known) / len(known)

    return share


def _numbered(column: str, first: int) -> Callable[[Row], float]:
    """1 where `column` has the number `first`, which means the first answer; 0 where it has the next number."""

    def share(row: Row) -> float:
        preferred = int(row[column])
        if preferred not in (first, first + 1):
            raise UnusableRow(f"invalid {column} {row[column]!r}; the answers have the numbers {first} and {first + 1}")
        return float(preferred == first)

    return share


def _pair(row: Row, prompt: list[Message], chosen: str, rejected: str) -> Example:
    if has_turns(chosen) or has_turns(rejected):
        raise UnusableRow("an answer contains further turns of the dialogue")
    p, margin = number(row, "p"), number(row, "margin")
    if p is not None and not 0 <= p <= 1:
        raise UnusableRow(f"invalid p = {p:g}; a probability is in [0, 1]")
    scored = next((d for names in SCORES if (d := _difference(row, *names)) is not None), None)
    difference = scored if margin is None else margin
    doubt: Doubt = "tie" if scored == 0 else "inverted" if (scored or 0) < 0 or (margin or 0) < 0 else ""
    return Example(prompt, chosen=chosen, rejected=rejected, p=p, margin=difference, doubt=doubt)


def _difference(row: Row, better: str, worse: str) -> float | None:
    """The score of the chosen answer minus that of the other; None where one is missing."""
    high, low = number(row, better), number(row, worse)
    return None if high is None or low is None else high - low


def number(row: Row, column: str) -> float | None:
    """A finite number, also from the text of a CSV file; None where the column is empty."""
    value = row.get(column)
    if value is None or value == "":
        return None
    number = float(value)
    if not math.isfinite(number):
        raise UnusableRow(f"invalid {column} = {number}; it must be finite")
    return number


_ANNOTATORS = ("annotator1", "annotator2", "annotator3")
LABEL = "label"
"""The column that says whether a single answer is desirable."""
_DESIRABLE = frozenset(["1", "1.0", "+1", "true", "thumbs_up", "up", "👍", "desirable", "good"])
_UNDESIRABLE = frozenset(["0", "0.0", "-1", "-1.0", "false", "thumbs_down", "down", "👎", "undesirable", "bad"])
_PAIRS = ("demonstrations", "preferences", "labels")
SCORES = (
    ("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"), ("rating_chosen", "rating_rejected"),
)  # fmt: skip
"""Columns with the scores of both answers, which show ties and inverted pairs."""
_OPTIONAL = ("margin", "p", *(name for names in SCORES for name in names))
CHOSEN_REJECTED = AnswerColumns("pairs", ("chosen", "rejected"), _OPTIONAL, _chosen_rejected, _PAIRS)
COMPARED = (
    CHOSEN_REJECTED,
    AnswerColumns("pairs in PandaLM's format", ("response1", "response2", *_ANNOTATORS), (),
            _judged("response1", "response2", _votes(_ANNOTATORS)), _PAIRS, _ANNOTATORS),
    AnswerColumns("pairs in LLMBar's format", ("output_1", "output_2", "label"), (),
            _judged("output_1", "output_2", _numbered("label", 1)), _PAIRS),
    AnswerColumns("pairs in PKU-SafeRLHF's format", ("response_0", "response_1", "better_response_id"), (),
            _judged("response_0", "response_1", _numbered("better_response_id", 0)), _PAIRS),
)  # fmt: skip
TWO_ANSWERS = tuple(
    (f"{name}{a}", f"{name}{b}")
    for name in ("response", "output", "answer", "completion")
    for a, b in (("_a", "_b"), ("_1", "_2"), ("1", "2"))
)
"""Columns of two answers, of which others say which is better."""
WINNER = ("winner", "preference", "preferred", "verdict")
"""Columns that say it of a row's two answers; one for each annotator begins with `annotator`."""
_ANNOTATOR = re.compile(r"annotator[_ ]?(?!id|name)\w+")


def compared_columns(columns: Columns) -> AnswerColumns | None:
    """The layout of two answers that these columns have; None where they have none."""
    known = next((a for a in COMPARED if set(a.columns) <= columns.keys()), None)
    two = next((two for two in TWO_ANSWERS if columns.keys() >= set(two)), None)
    if known or two is None:
        return known
    each = tuple(name for name in columns if _ANNOTATOR.fullmatch(name))
    annotators = each or tuple(name for name in WINNER if name in columns)[:1]
    judged = _judged(*two, _votes(annotators))
    return AnswerColumns("pairs with verdicts", two, annotators, judged, _PAIRS, annotators) if annotators else None


COMPLETIONS = AnswerColumns("prompts with answers", ("completion",), (LABEL,), _labelled, ("demonstrations",))
SINGLE = tuple(
    AnswerColumns("prompts with answers", (name,), (), _single(name), ("demonstrations",))
    for name in ("response", "output", "answer")
)
