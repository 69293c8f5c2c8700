"""Anchored Preference Optimization, zero: chosen answers become likelier, rejected ones less likely."""

from typing import Annotated

import torch
from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def apo_zero(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
) -> Tensor:
    """Pushes each answer away from the reference by itself: up if chosen, down if rejected.

        1 − σ(β·a) + σ(β·b)

    A policy equal to its reference has loss 1. It suits pairs whose chosen answer is better than what the policy
    writes; where it is worse, `apo_down` lets it fall. It has no other relation to *adversarial* preference
    optimization, the wiring `apo`, than the letters.

    Args:
        beta: scale of the log-ratios; an answer several 1/β nats from its reference has next to no gradient.

    Source: D'Oosterlinck et al., arXiv 2408.06266, eq. 7 (APO-zero); TRL's `apo_zero`.
    Paper: beta 0.1, lr 2e-7, batch 64 (as TRL's index of papers has it).
    """
    ratios = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return torch.sigmoid(-beta * ratios.chosen) + torch.sigmoid(beta * ratios.rejected)


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref)."""
    return beta
