"""Gold oracle of the toy world: what its people like. It judges; no training of a headline sees it."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.kinds import Scorer
from tasks.worlds.toy_rules import all_features, gold

identity = None


def toy_gold() -> Scorer:
    """The toy world's gold oracle: P(a beats b) = σ(gold(a) − gold(b)).

    gold = 2.5·right − 1.0·wrong (shares of what was asked; two values for one fact = wrong) − 0.4 per unasked or
    repeated fact + 0.3 names the animal + 0.6 opening + 0.4 closing − 1.0 rude − 0.4 per filler − 0.5 per repeated
    word trigram − 0.05 per word over 22 − 1.5 if it did not end. Raises DataError on prompts of other sources.
    """
    return Scorer.scoring(_scores)


def _scores(prompts: Sequence[object], completions: Sequence[str], truths: Sequence[str | None]) -> list[float]:
    return [gold(f) for f in all_features(completions, truths)]
