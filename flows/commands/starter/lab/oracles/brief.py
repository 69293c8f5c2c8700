"""A judge who likes answers of a certain length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from tasks.contract import Bounds
from tasks.kinds import Scorer

identity = None  # it reads nothing of the outside world


def brief(*, words: Annotated[int, Bounds(min=1)] = 12) -> Scorer:
    """Scores an answer by how near it comes to a number of words: −|words − wanted| / wanted.

    Args:
        words: the number that is wanted.
    """

    def score(prompts: Sequence[object], completions: Sequence[str], truths: Sequence[str | None]) -> list[float]:
        return [-abs(len(text.split()) - words) / words for text in completions]

    return Scorer.scoring(score)
