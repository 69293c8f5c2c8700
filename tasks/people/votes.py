"""How the judgements of several people become the probability that one answer beats the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

POINTS = {"x": 1.0, "y": 0.0, "tie": 0.5}


def preference(choices: Sequence[str], combine: Literal["mean", "majority"]) -> float | None:
    """P(x beats y) by the choices of several people; None where all of them skipped.

    mean: the share of the votes for x, a tie being half a vote for each: x, x, tie → 5/6. majority: 1 or 0 for the one
    with more votes, ½ where both have as many: x, x, tie → 1.
    """
    points = [POINTS[choice] for choice in choices if choice in POINTS]
    if not points:
        return None
    mean = sum(points) / len(points)
    if combine == "mean":
        return mean
    return 0.5 if mean == 0.5 else float(mean > 0.5)
