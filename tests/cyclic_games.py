"""Self-play on a cyclic game of 7 answers by three methods, as exact updates.

Three answers go round: each beats the next with 0.9. All others lose to them with 0.8. The start is uneven.
"""

from typing import NamedTuple

import numpy as np

from tasks.judging.games import response_gaps
from tests.enumerable import Matrix, normalised

GROUP = np.array([-1, 0, 1, -1, 2, -1, -1])
"""Place of each of the 7 answers in the cycle; −1: dominated."""


def cycle(group: np.ndarray) -> Matrix:
    """`(answers, answers)` P(row beats column); group −1 is dominated."""
    p = np.full((len(group), len(group)), 0.5)
    for g in range(3):
        mine, next_one = group == g, group == (g + 1) % 3
        p[np.ix_(mine, next_one)], p[np.ix_(next_one, mine)] = 0.9, 0.1
        p[np.ix_(mine, group < 0)], p[np.ix_(group < 0, mine)] = 0.8, 0.2
    return p


def gap(p: Matrix, policy: Matrix) -> float:
    """Duality gap of a policy, mean over prompts, by the function that measures it in a run."""
    rates = p @ np.atleast_2d(policy).T
    return float(response_gaps(rates, rates).mean())


class Method(NamedTuple):
    """π_{t+1} ∝ anchor^r · π_t^(1 − r) · exp(step · P(y ≻ π_t))."""

    name: str
    step: float = 3.0
    r: float = 0.0
    """Weight of the anchor, which is the base at first."""
    anchor_rounds: int | None = None
    """After how many rounds the anchor is replaced by the policy; None: never."""

    def target(self, p: Matrix, log_policy: Matrix, log_anchor: Matrix) -> Matrix:
        """The next iterate."""
        tilt = self.step * np.exp(log_policy) @ p.T
        return normalised(self.r * log_anchor + (1 - self.r) * log_policy + tilt)

    def moves_anchor(self, rounds: int) -> bool:
        """Whether the anchor becomes the policy once so many rounds are done."""
        return self.anchor_rounds is not None and rounds % self.anchor_rounds == 0


SPPO, INPO, COMAL = Method("SPPO"), Method("INPO", r=1 / 3), Method("COMAL", r=1 / 3, anchor_rounds=6)


def exact_rounds(p: Matrix, log_start: Matrix, method: Method, rounds: int) -> list[Matrix]:
    """Log-probabilities of the iterates, the start first."""
    iterates, anchor = [log_start], log_start
    for t in range(1, rounds + 1):
        iterates.append(method.target(p, iterates[-1], anchor))
        anchor = iterates[-1] if method.moves_anchor(t) else anchor
    return iterates
