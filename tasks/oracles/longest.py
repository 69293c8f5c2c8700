"""The longer answer wins: what any oracle must be better than, and what a biased one comes down to."""

from collections.abc import Sequence
from typing import Literal

from tasks.kinds import Scorer

identity = None


def longest(*, counted_in: Literal["characters", "words"] = "characters") -> Scorer:
    """A baseline for any data, which reads nothing but the length: P(a beats b) = σ(length of a − length of b).

    So the longer answer is the winner, and equal lengths are a tie. Its accuracy on people's pairs shows how far length
    alone explains them; its agreement with another oracle shows how far that oracle follows length.

    Args:
        counted_in: what the length is measured in; words are what white space separates.
    """

    def score(prompts: Sequence[object], completions: Sequence[str], truths: Sequence[str | None]) -> list[float]:
        return [float(len(text) if counted_in == "characters" else len(text.split())) for text in completions]

    return Scorer.scoring(score)
