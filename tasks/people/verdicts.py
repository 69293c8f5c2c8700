"""A survey's judgements as a matrix, and how far the people agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tasks.ids import prompt_id
from tasks.judging.agreement import Floats, Ints, agreement_of
from tasks.judging.intervals import Interval
from tasks.people.survey import Judgement, SurveyQuestion

VALUES = {"x": 1.0, "tie": 0.0, "y": -1.0}


class Verdicts(NamedTuple):
    """Of M questions by J people."""

    people: list[str]
    values: Floats
    """`(M, J)`: 1: x wins, 0: a tie, −1: y wins; NaN: none was given, or skipped."""
    prompts: Ints
    """`(M,)`: number of each question's prompt."""


def verdicts(questions: Sequence[SurveyQuestion], judgements: Sequence[Judgement]) -> Verdicts:
    """The judgements of these questions."""
    at = {question.id: i for i, question in enumerate(questions)}
    known = [j for j in judgements if j.question in at]
    people = sorted({j.annotator for j in known})
    values = np.full((len(questions), len(people)), np.nan)
    for j in known:
        values[at[j.question], people.index(j.annotator)] = VALUES.get(j.choice, np.nan)
    numbers: dict[str, int] = {}
    prompts = [numbers.setdefault(prompt_id(q.prompt), len(numbers)) for q in questions]
    return Verdicts(people, values, np.array(prompts, dtype=np.int64))


def agreement_lines(several: Verdicts) -> Iterator[str]:
    """How far the people agree, in lines to print; none where there are fewer than two of them."""
    people = several.people
    if len(people) < 2:
        return
    found = agreement_of(several.values, several.prompts)
    for (i, j), accuracy in found.accuracy.items():
        if accuracy.value is not None:
            yield (f"{people[i]} and {people[j]}: the same verdict on {_text(accuracy)} of the pairs of "
                   f"{accuracy.n} prompts, Cohen's kappa {_text(found.kappa[i, j])}")  # fmt: skip
    yield f"all {len(people)}: Fleiss' kappa {_text(found.fleiss)}, Krippendorff's alpha {_text(found.alpha)}"


def _text(x: Interval) -> str:
    if x.value is None:
        return "undefined"
    return f"{x.value:.2f}" + ("" if x.low is None or x.high is None else f" ({x.low:.2f}–{x.high:.2f})")
