"""The payoff of an answer in a game of preferences, from the probabilities that it beats its opponents."""

from typing import Literal

import torch
from torch import Tensor

from tasks.losses import require_one_shape

Payoff = Literal["probability", "log_odds"]
SMALLEST_P = 1e-3
"""Probabilities are moved to [this, 1 − this] before their log-odds are taken, so that one certain judgement counts at
most log(999) = 6.9."""


def payoffs(p: Tensor, payoff: Payoff) -> Tensor:
    """What each comparison is worth to the answer that was compared, `(N,)`; 0 for an even one.

        probability   P(y ≻ y') − ½             log_odds   log P(y ≻ y')/P(y ≺ y')

    Both are antisymmetric games. With a price τ of a nat away from μ, and opponents of π^(1−m)·μ^m, REINFORCE on
    `probability` has the fixed point π ∝ μ·exp(P(y ≻ π^(1−m)·μ^m)/τ). `log_odds` with m = 0 and the price η has the
    symmetric equilibrium π ∝ μ·exp(E_{y' ~ π} R/η), R the log-odds; where P is Bradley-Terry, P = σ(r − r'), that is
    RLHF's optimum μ·exp(r/η).

    p: `(N,)`, P(y ≻ y') in [0, 1]; for `log_odds` moved into [1e-3, 1 − 1e-3], beyond which the game is another one.

    Source: Munos et al., arXiv 2312.00886, §3 and §7 (probability). Log-odds: the general-preference form of the
    two-player game, as in Ye et al., arXiv 2402.07314.
    """
    return p - 0.5 if payoff == "probability" else torch.logit(p, eps=SMALLEST_P)


def mean_payoffs(values: Tensor, answer: Tensor, count: int) -> Tensor:
    """The mean over the opponents that each of `count` answers met, `(count,)`; NaN where it met none.

    values: `(N,)`, of each comparison. answer: `(N,)`, number of the answer that it is the payoff of.
    """
    require_one_shape(values=values, answer=answer)
    sums = values.new_zeros(count).index_add(0, answer, values)
    return sums / torch.bincount(answer, minlength=count)
