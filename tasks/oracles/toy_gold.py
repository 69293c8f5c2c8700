"""Gold oracle of the toy world: what its people like. It measures; no training of a headline uses it."""

from tasks.kinds import Scorer
from tasks.worlds.toy_rules import gold, scorer_by

identity = None


def toy_gold() -> Scorer:
    """The toy world's gold oracle: P(a beats b) = σ(gold(a) − gold(b)).

    gold = 2.5·right − 1.0·wrong (shares of what was asked; two values for one fact = wrong) − 0.4 per unasked or
    repeated fact + 0.3 names the animal + 0.6 opening + 0.4 closing − 1.0 rude − 0.4 per filler − 0.5 per repeated
    word trigram − 0.05 per word over 22 − 1.5 if it did not end. Raises DataError on prompts of other sources.
    """
    return scorer_by(gold)
