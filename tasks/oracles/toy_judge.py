"""Training oracle of the headline: close to gold, but not gold, so that a gap between the two can be seen."""

from tasks.kinds import Scorer
from tasks.worlds.toy_rules import Features, scorer_by

identity = None


def toy_judge() -> Scorer:
    """A judge who agrees with gold on about nine pairs in ten: P(a beats b) = σ(0.8·(score(a) − score(b))).

    score = 2.0·right − 0.6·wrong − 0.2 per unasked or repeated fact + 0.3 names the animal + 0.8 opening + 0.6
    closing − 1.5 rude − 0.1 per filler − 0.3 per repeated trigram − 0.03 per word over 24 − 1.0 if it did not end.
    It leaves fillers in, which gold dislikes. Raises DataError on prompts of other sources.
    """
    return scorer_by(_score, scale=0.8)


def _score(f: Features) -> float:
    return (
        2.0 * f.right - 0.6 * f.wrong - 0.2 * f.extra + 0.3 * f.named + 0.8 * (f.tone is not None) + 0.6 * f.closing
        - 1.5 * f.rude - 0.1 * f.fillers - 0.3 * f.repeats - 0.03 * max(0, f.words - 24) - 1.0 * (not f.ended)
    )  # fmt: skip
