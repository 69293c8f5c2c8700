"""A judge whose preferences go round: no score explains them."""

from collections.abc import Sequence
from math import exp

from tasks.kinds import Oracle
from tasks.worlds.toy_rules import Features, features, quality

_BEATS = {"warm": "playful", "playful": "formal", "formal": "warm"}

identity = None


def toy_cycle() -> Oracle:
    """Non-transitive judge: σ(0.5·quality difference + 2·cycle + 1.5·(has a tone − has none)).

    Warm beats playful beats formal beats warm: cycle is 1, −1 or 0, and σ(2) = 0.88 between equals. Quality is gold
    without the opening's 0.6. p(a, b) = 1 − p(b, a). Raises DataError on prompts of other sources.
    """
    return Oracle.of(compare=_compare)


def _compare(
    prompts: Sequence[object], a: Sequence[str], b: Sequence[str], truths: Sequence[str | None]
) -> list[float]:
    return [_p(features(x, truth), features(y, truth)) for x, y, truth in zip(a, b, truths, strict=True)]


def _p(a: Features, b: Features) -> float:
    toned = (a.tone is not None) - (b.tone is not None)
    return 1 / (1 + exp(-(0.5 * (quality(a) - quality(b)) + 2 * _cycle(a.tone, b.tone) + 1.5 * toned)))


def _cycle(a: str | None, b: str | None) -> int:
    if a is None or b is None:
        return 0
    return (_BEATS[a] == b) - (_BEATS[b] == a)
