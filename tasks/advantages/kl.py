"""Estimators of KL(π ‖ π_ref) from tokens of π: what each converges to as a reward, and as a loss.

The log-ratio is log π/π_ref of a token, or its sum over an answer, in nats; β is the price of a nat; r is the score.

| estimator        | in the reward            | as a loss                                                          |
|------------------|--------------------------|--------------------------------------------------------------------|
| k1               | π* = π_ref·exp(r/β)/Z    | teaches nothing: the mean of its gradient is 0                     |
| k2 of the answer |                          | π*: its gradient is that of KL(π ‖ π_ref)                          |
| k2 of each token |                          | per state π ∝ π_ref·exp(Q/β), Q without later KL: near π*, not it  |
| k3 of the answer |                          | β·π_ref/(λ − r): its gradient is that of KL(π_ref ‖ π)             |
| k3 of each token |                          | per state β·π_ref/(λ_s − Q)                                        |

λ is what makes the probabilities sum to 1. π* holds for PPO, RLOO and GRPO alike, also where advantages are scaled by
the standard deviation of a large group. The losses' optima hold for advantages that are not scaled and for answers that
count by their sum or by a constant; `scale: group` turns β into β·σ, σ the standard deviation of the scores under π,
and the mean of a group of G answers turns it into β·G/(G − 1). k3 times the ratio to the old policy (TRL 1.16's default
for `beta` > 0) has the gradient of k2 of each token. The estimators are of the policy that drew the answers, so only
the first step after a rollout has these gradients exactly.
"""

from typing import Literal

import torch
from torch import Tensor

from tasks.losses import LARGEST_LOG_RATIO, require_one_shape

KlLevel = Literal["token", "sequence"]


def k1(log_ratio: Tensor) -> Tensor:
    """log π/π_ref of tokens of π: unbiased for KL(π ‖ π_ref), noisy, may be negative. The one for rewards.

    As a loss it teaches nothing: the mean of its gradient is 0.
    Source: J. Schulman, "Approximating KL divergence" (2020).
    """
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """(log π/π_ref)²/2: biased, little noise. Of an answer's sum, its gradient is that of KL(π ‖ π_ref)."""
    return log_ratio**2 / 2


def k3(log_ratio: Tensor) -> Tensor:
    """π_ref/π − 1 + log π/π_ref: unbiased, never negative. As a loss its gradient is that of KL(π_ref ‖ π).

    Below −20 nats it is held at its value there, and has no gradient: exp would overflow.
    """
    held = log_ratio.clamp(min=-LARGEST_LOG_RATIO)
    return torch.exp(-held) - 1 + held


def kl_losses(estimator: Literal["k2", "k3"], level: KlLevel, log_ratios: Tensor, answer: Tensor) -> Tensor:
    """The KL as a loss of every token, `(M,)` nats; the sum over an answer's tokens is the answer's loss.

    log_ratios: `(M,)`, log π/π_ref of each token, with the gradient of π. answer: `(M,)`, the number of each token's
    answer, from 0. level: `token` estimates each token's KL; `sequence` the answer's from the sum of its log-ratios,
    of which each of its n tokens gets 1/n, with the gradient of all of them.
    """
    require_one_shape(log_ratios=log_ratios, answer=answer)
    estimate = {"k2": k2, "k3": k3}[estimator]
    if level == "token":
        return estimate(log_ratios)
    lengths = torch.bincount(answer)
    sums = log_ratios.new_zeros(len(lengths)).index_add(0, answer, log_ratios)
    return (estimate(sums) / lengths.clamp(min=1))[answer]


def token_rewards(log_ratios: Tensor, scores: Tensor, completion_mask: Tensor, coefficient: float) -> Tensor:
    """−β·k1 at every token, and the score at the last one, `(B, T)`.

    log_ratios: log π_old/π_ref, `(B, T)`. scores: `(B,)`, of answers that are not empty.

    Source: Ziegler et al., arXiv 1909.08593, eq. 2, spread over tokens as in its code.
    """
    rewards = -coefficient * k1(log_ratios) * completion_mask
    last = completion_mask.sum(1) - 1
    if (last < 0).any():
        raise ValueError(f"{int((last < 0).sum())} of {len(last)} answers have no token")
    rewards[torch.arange(len(last)), last] += scores
    return rewards
