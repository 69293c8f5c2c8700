"""The formats of rows that are understood, recognised by their columns; one function per format reads a row.

A reader raises `Unusable` or DataError for a row that stands for no prompt, answer or pair: it is counted, named and
skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os.path import commonprefix
from typing import Any, NamedTuple

from tasks.formats.messages import Message, has_turns, is_dialogue, messages, text

Row = Mapping[str, Any]


class Unusable(Exception):
    """This row cannot be used, and why; no fault of the file's format."""


class Example(NamedTuple):
    """What one row says. Empty answers are kept: `tokenize` counts and skips them with those that are too long."""

    prompt: list[Message]
    completion: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    p: float | None = None
    margin: float | None = None


class Format(NamedTuple):
    """A format: what it is called, the columns it is known by, how a row is read, what it gives."""

    name: str
    columns: frozenset[str]
    read: Callable[[Row], Example]
    gives: tuple[str, ...]


def recognise(columns: Sequence[str]) -> Format | None:
    """The first format whose columns are all there."""
    return next((f for f in FORMATS if f.columns <= set(columns)), None)


def describe() -> str:
    """All formats, one a line, for messages."""
    return "\n".join(f"  {f.name}: {', '.join(sorted(f.columns))}" for f in FORMATS)


def _explicit(row: Row) -> Example:
    whole = all(is_dialogue(row[c]) or _is_conversation(row[c]) for c in ("chosen", "rejected"))
    if whole:
        return _implicit(row)
    return _pair(row, _asks(messages(row["prompt"])), text(row["chosen"]), text(row["rejected"]))


def _implicit(row: Row) -> Example:
    if isinstance(row["chosen"], str) and not is_dialogue(row["chosen"]):
        return _common_text(row)
    prompt, chosen = _last_turn(messages(row["chosen"]))
    other, rejected = _last_turn(messages(row["rejected"]))
    if prompt != other:
        raise Unusable("the two sides part before their last turn")
    return _pair(row, _asks(prompt), chosen, rejected)


def _common_text(row: Row) -> Example:
    """Plain strings that begin alike: the prompt is what they share, up to a border between words (as TRL has it)."""
    shared = commonprefix([row["chosen"], row["rejected"]])  # noqa: RUF071
    shared = shared[:-1] if shared.endswith(" ") else shared
    if not shared.strip():
        raise Unusable("the two sides begin differently, so they share no prompt")
    sides = (str(row[c])[len(shared) :].strip() for c in ("chosen", "rejected"))
    return _pair(row, messages(shared), *sides)


def _completion(row: Row) -> Example:
    if row.get("label") is False:
        return Example(_asks(messages(row["prompt"])))
    return Example(_asks(messages(row["prompt"])), text(row["completion"]))


def _messages(row: Row) -> Example:
    prompt, answer = _last_turn(messages(row["messages"]))
    return Example(_asks(prompt), answer or None)


def _judged(a: str, b: str, vote: Callable[[Row], float]) -> Callable[[Row], Example]:
    """Two answers to an instruction and who is better: `vote` gives the share that prefers the first."""

    def read(row: Row) -> Example:
        share = vote(row)
        if share == 0.5:
            raise Unusable("the annotators call it a tie")
        sides = (text(row[a]), text(row[b])) if share > 0.5 else (text(row[b]), text(row[a]))
        pair = _pair(row, _instruction(row), *sides)
        return pair._replace(p=max(share, 1 - share) if 0 < share < 1 else None)

    return read


def _annotators(row: Row) -> float:
    votes = [row[f"annotator{i}"] for i in (1, 2, 3)]
    return (votes.count(1) - votes.count(2)) / 6 + 0.5


def _turn(row: Row) -> Example:
    return Example(messages([row["turns"][0]]))


def _instruction(row: Row) -> list[Message]:
    parts = (row.get("instruction"), row.get("input"))
    return _asks(messages("\n\n".join(p.strip() for p in parts if p and p.strip())))


def _pair(row: Row, prompt: list[Message], chosen: str, rejected: str) -> Example:
    if has_turns(chosen) or has_turns(rejected):
        raise Unusable("an answer goes on with further turns")
    margin = row.get("margin")
    if margin is None and row.get("score_chosen") is not None and row.get("score_rejected") is not None:
        margin = row["score_chosen"] - row["score_rejected"]
    return Example(prompt, chosen=chosen, rejected=rejected, margin=None if margin is None else float(margin))


def _asks(prompt: list[Message]) -> list[Message]:
    if not prompt or not any(m["content"].strip() for m in prompt):
        raise Unusable("the prompt is empty")
    if prompt[-1]["role"] == "assistant":
        raise Unusable("the prompt ends with the assistant's own turn")
    return prompt


def _is_conversation(value: Any) -> bool:
    """A message list that begins before the answer, so that it holds the prompt as well."""
    return isinstance(value, (list, tuple)) and len(value) > 1


def _last_turn(turns: list[Message]) -> tuple[list[Message], str]:
    """What was asked, and the assistant's last answer (empty: it gave none)."""
    if turns and turns[-1]["role"] == "assistant":
        return turns[:-1], turns[-1]["content"].strip()
    return turns, ""


def _format(name: str, columns: str, read: Callable[[Row], Example], *gives: str) -> Format:
    return Format(name, frozenset(columns.split()), read, ("prompts", *gives))


_PAIRS = ("demonstrations", "preferences")
FORMATS = (
    _format("preference, explicit prompt", "prompt chosen rejected", _explicit, *_PAIRS),
    _format("preference, implicit prompt", "chosen rejected", _implicit, *_PAIRS),
    _format("PandaLM", "instruction input response1 response2 annotator1 annotator2 annotator3",
            _judged("response1", "response2", _annotators), *_PAIRS),
    _format("LLMBar", "input output_1 output_2 label",
            _judged("output_1", "output_2", lambda row: 1.0 if int(row["label"]) == 1 else 0.0), *_PAIRS),
    _format("prompt-completion", "prompt completion", _completion, "demonstrations"),
    _format("conversation", "messages", _messages, "demonstrations"),
    _format("instruction", "instruction output", lambda row: Example(_instruction(row), text(row["output"])),
            "demonstrations"),
    _format("question and answer", "question answer",
            lambda row: Example(_asks(messages(row["question"])), text(row["answer"])), "demonstrations"),
    _format("prompt-only", "prompt", lambda row: Example(_asks(messages(row["prompt"])))),
    _format("turns (the first is taken)", "turns", _turn),
    _format("instruction-only", "instruction", lambda row: Example(_instruction(row))),
)  # fmt: skip
"""In this order: a row of pairs is also one of prompts."""
