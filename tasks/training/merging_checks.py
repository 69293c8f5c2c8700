"""What a merge demands of its weights. Light: a plan asks."""

import math
from collections.abc import Sequence

from tasks.contract import SpecError


def shares(weights: Sequence[float] | None, models: int) -> list[float]:
    """Each model's share of the mean, which add up to 1. Raises SpecError for unsuitable weights.

    weights: in any unit; None: equal ones.
    """
    weights = [1.0] * models if weights is None else weights
    if len(weights) != models:
        raise SpecError(f"`weights` has {len(weights)} numbers for {models} models: give one for each of `policies`")
    total = math.fsum(weights)
    if not (all(map(math.isfinite, weights)) and total > 0):
        raise SpecError(f"`weights` = {list(weights)}; they must be finite, and their sum above 0")
    return [weight / total for weight in weights]


def check_rotation(shares: Sequence[float]) -> None:
    """Raise SpecError where there is no arc between two models."""
    if len(shares) != 2:
        raise SpecError(f"`how: slerp` takes two models, and `policies` has {len(shares)}; `how: linear` takes any")
    if min(shares) < 0:
        raise SpecError("`how: slerp` goes from one model to the other, so no weight can be negative")
