"""Columns of answers: pairs, judged answers, completions, each read once the prompt is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from os.path import commonprefix
from typing import Any, Literal, NamedTuple

from tasks.formats.columns import Row
from tasks.formats.messages import answer_messages, has_turns, is_dialogue, messages
from tasks.formats.prompts import Unusable, with_system
from tasks.message import Message, extra_of

Doubt = Literal["", "tie", "inverted", "undesirable"]
"""What a row says against its own answers: equal, the rejected one is better, or not to be learned."""


class Example(NamedTuple):
    """What one row says. Empty answers are kept: `tokenize` counts and skips them with those that are too long."""

    prompt: list[Message]
    completion: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    p: float | None = None
    margin: float | None = None
    doubt: Doubt = ""
    weight: float | None = None


class AnswerColumns(NamedTuple):
    """A group of columns with answers; `beside` may be there too. `read` is given the prompt's messages."""

    name: str
    columns: tuple[str, ...]
    beside: tuple[str, ...]
    read: Callable[[Row, list[Message], bool], Example]
    gives: tuple[str, ...]


def last_turn(turns: list[Message]) -> tuple[list[Message], str | None]:
    """What was asked, and the assistant's last answer (None: the conversation does not end with one).

    Raises Unusable where the answer is a call of a tool, which is no text.
    """
    if turns and turns[-1]["role"] == "assistant":
        if "tool_calls" in extra_of(turns[-1]):
            raise Unusable("the answer calls tools (tool_calls), and answers are texts")
        return turns[:-1], turns[-1]["content"]
    return turns, None


def continued(begun: list[Message], value: Any, dialogue: bool) -> tuple[list[Message], str]:
    """What was asked before the last answer of `value`, and that answer. `begun`: what the prompt's columns say.

    `value` is an answer, several messages that follow the prompt, or a whole conversation with the prompt in it.
    `dialogue`: the prompt is an HH-RLHF dialogue, whose answers begin with a space that separates.
    """
    if is_dialogue(value):
        asked, answer = last_turn(messages(value))
        return _agreeing(begun, asked), answer or ""
    turns = answer_messages(value)
    asked, answer = last_turn(turns)
    if answer is None:
        raise Unusable(f"an answer ends with the {turns[-1]['role']}'s turn")
    if any(m["role"] in ("user", "system") for m in asked) and not _follows(begun, asked):
        return _agreeing(begun, asked), answer
    return [*begun, *asked], answer.strip() if dialogue else answer


def _follows(begun: list[Message], turns: list[Message]) -> bool:
    """Whether `turns` go on after the prompt: they begin with the other side and do not repeat the prompt."""
    return bool(begun) and turns[0]["role"] in ("assistant", "tool") and begun[-1] not in turns


def _agreeing(begun: list[Message], asked: list[Message]) -> list[Message]:
    """The conversation that a side holds whole, if the prompt's columns (where there are any) do not contradict it."""
    if not begun:
        return asked
    users = [m["content"].strip() for m in begun if m["role"] == "user"]
    known = {m["content"].strip() for m in asked if m["role"] == "user"}
    if users and users[-1] not in known:
        raise Unusable("the prompt is not in the conversation that the answer holds")
    return with_system(asked, begun[0]["content"]) if begun[0]["role"] == "system" else asked


def _chosen_rejected(row: Row, begun: list[Message], dialogue: bool) -> Example:
    prompt, chosen = continued(begun, row["chosen"], dialogue)
    other, rejected = continued(begun, row["rejected"], dialogue)
    if prompt != other:
        raise Unusable("the two sides part before their last turn")
    return _pair(row, prompt, chosen, rejected)


def common_text(row: Row) -> Example:
    """Plain strings that begin alike: the prompt is what they share, up to the last space between two words."""
    a, b = str(row["chosen"]), str(row["rejected"])
    end = len(commonprefix([a, b]))  # noqa: RUF071
    while end and not a[end - 1].isspace():
        end -= 1
    if not a[:end].strip():
        raise Unusable("the two sides begin differently, so they share no prompt")
    return _pair(row, messages(a[:end].rstrip()), a[end:], b[end:])


def _labelled(row: Row, begun: list[Message], dialogue: bool) -> Example:
    prompt, answer = continued(begun, row["completion"], dialogue)
    return Example(prompt, answer, doubt="" if _desirable(row.get("label")) else "undesirable")


def _single(column: str) -> Callable[[Row, list[Message], bool], Example]:
    def read(row: Row, begun: list[Message], dialogue: bool) -> Example:
        return Example(*continued(begun, row[column], dialogue))

    return read


def _desirable(label: Any) -> bool:
    """0 and 1, true and false, as numbers or as words. Where there is no label, nothing speaks against the answer."""
    word = str(label).strip().lower()
    if word in ("none", "", "1", "1.0", "true"):
        return True
    if word in ("0", "0.0", "false"):
        return False
    raise Unusable(f"the label is {label!r}; 0, 1, true and false are understood")


def _judged(a: str, b: str, share: Callable[[Row], float]) -> Callable[[Row, list[Message], bool], Example]:
    """Two answers and who is better: `share` gives the part of the judges that prefer the first."""

    def read(row: Row, begun: list[Message], dialogue: bool) -> Example:
        p = share(row)
        better, worse = (a, b) if p >= 0.5 else (b, a)
        example = _chosen_rejected({**row, "chosen": row[better], "rejected": row[worse]}, begun, dialogue)
        return example._replace(p=max(p, 1 - p) if 0 < p < 1 else None, doubt="tie" if p == 0.5 else example.doubt)

    return read


def _annotators(row: Row) -> float:
    votes = [row[f"annotator{i}"] for i in (1, 2, 3)]
    return (votes.count(1) - votes.count(2)) / 6 + 0.5


def _numbered(column: str, first: int) -> Callable[[Row], float]:
    """1 if `column` names the first answer, by the number `first`; 0 if it names the next one."""

    def share(row: Row) -> float:
        named = int(row[column])
        if named not in (first, first + 1):
            raise Unusable(f"{column} is {row[column]!r}; it names an answer by {first} or {first + 1}")
        return float(named == first)

    return share


def _pair(row: Row, prompt: list[Message], chosen: str, rejected: str) -> Example:
    if has_turns(chosen) or has_turns(rejected):
        raise Unusable("an answer goes on with further turns")
    p, margin = number(row, "p"), number(row, "margin")
    if p is not None and not 0 <= p <= 1:
        raise Unusable(f"p is {p:g} and no probability")
    scored = next((d for names in SCORES if (d := _difference(row, *names)) is not None), None)
    difference = scored if margin is None else margin
    doubt: Doubt = "tie" if scored == 0 else "inverted" if (scored or 0) < 0 or (margin or 0) < 0 else ""
    return Example(prompt, chosen=chosen, rejected=rejected, p=p, margin=difference, doubt=doubt)


def _difference(row: Row, better: str, worse: str) -> float | None:
    """How much higher the chosen answer's score is; None where one of the scores is missing."""
    high, low = number(row, better), number(row, worse)
    return None if high is None or low is None else high - low


def number(row: Row, column: str) -> float | None:
    """A finite number, also from a CSV file's text; None where there is none."""
    value = row.get(column)
    if value is None or value == "":
        return None
    number = float(value)
    if not math.isfinite(number):
        raise Unusable(f"{column} is {number}, which no loss can use")
    return number


_PAIRS = ("demonstrations", "preferences")
SCORES = (
    ("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"), ("rating_chosen", "rating_rejected"),
)  # fmt: skip
"""Columns with the scores of both sides, by which a pair can be a tie or the wrong way round."""
_BESIDE = ("margin", "p", *(name for names in SCORES for name in names))
CHOSEN_REJECTED = AnswerColumns("pairs", ("chosen", "rejected"), _BESIDE, _chosen_rejected, _PAIRS)
COMPARED = (
    CHOSEN_REJECTED,
    AnswerColumns("pairs as PandaLM has them", ("response1", "response2", "annotator1", "annotator2", "annotator3"), (),
            _judged("response1", "response2", _annotators), _PAIRS),
    AnswerColumns("pairs as LLMBar has them", ("output_1", "output_2", "label"), (),
            _judged("output_1", "output_2", _numbered("label", 1)), _PAIRS),
    AnswerColumns("pairs as PKU-SafeRLHF has them", ("response_0", "response_1", "better_response_id"), (),
            _judged("response_0", "response_1", _numbered("better_response_id", 0)), _PAIRS),
)  # fmt: skip
COMPLETIONS = AnswerColumns("prompts with answers", ("completion",), ("label",), _labelled, ("demonstrations",))
SINGLE = tuple(
    AnswerColumns("prompts with answers", (name,), (), _single(name), ("demonstrations",))
    for name in ("response", "output", "answer")
)
