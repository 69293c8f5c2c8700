"""A judge who likes length: what a method optimises when its oracle has a bias."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.kinds import Scorer
from tasks.worlds.toy_rules import all_features, gold

identity = None


def toy_length() -> Scorer:
    """Length-biased judge: P(a beats b) = σ(0.5·gold difference + 0.25·difference in words).

    Raises DataError on prompts of other sources than the toy world.
    """
    return Scorer.scoring(_scores)


def _scores(prompts: Sequence[object], completions: Sequence[str], truths: Sequence[str | None]) -> list[float]:
    return [0.5 * gold(f) + 0.25 * f.words for f in all_features(completions, truths)]
