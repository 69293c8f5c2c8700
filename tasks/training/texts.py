"""Answers that are texts, as a model reads them that scores: through its own template, each as one that ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from tasks.message import Message
from tasks.rendering import AnswerText, Rendered, Template
from tasks.training.rows import Rows, rows_of_ids

T = TypeVar("T")


class Readable(NamedTuple):
    """The answers that a model can read."""

    places: list[int]
    """Their numbers among all that were given."""
    rows: Rows


def readable(
    template: Template, longest: int | None, prompts: Sequence[Sequence[Message]], completions: Sequence[str]
) -> Readable | None:
    """The tokens of answers; without those that the template refuses or that are longer, with their prompt, than
    `longest`. None where none is left."""
    made = template.answers([AnswerText(p, t) for p, t in zip(prompts, completions, strict=True)])
    read = [(i, m) for i, m in enumerate(made) if isinstance(m, Rendered)]
    fits = [(i, m) for i, m in read if longest is None or m.shared + len(m.answer) <= longest]
    if not fits:
        return None
    return Readable(
        [i for i, _ in fits], rows_of_ids([m.prompt[: m.shared] for _, m in fits], [m.answer for _, m in fits])
    )


def placed(size: int, places: Sequence[int], values: Sequence[T]) -> list[T | None]:
    """`values` at their places in a list of `size`; None elsewhere."""
    found: list[T | None] = [None] * size
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return found


def once_each(
    prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None], query: Callable[..., Sequence[T]]
) -> list[T]:
    """`query(prompts, completions, truths)` for the distinct rows only; its answers for all rows."""
    keys = [repr((p, c, t)) for p, c, t in zip(prompts, completions, truths, strict=True)]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    order = {key: number for number, key in enumerate(first)}
    rows = list(first.values())
    answers = query([prompts[i] for i in rows], [completions[i] for i in rows], [truths[i] for i in rows])
    return [answers[order[key]] for key in keys]
