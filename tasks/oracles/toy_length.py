"""A judge who likes length: what a method optimises when its oracle has a bias."""

from tasks.kinds import Scorer
from tasks.worlds.toy_rules import Features, gold, scorer_by

identity = None


def toy_length() -> Scorer:
    """Length-biased judge: P(a beats b) = σ(0.5·gold difference + 0.25·difference in words).

    Raises DataError on prompts of other sources than the toy world.
    """
    return scorer_by(_score)


def _score(f: Features) -> float:
    return 0.5 * gold(f) + 0.25 * f.words
