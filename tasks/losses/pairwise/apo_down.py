"""Anchored Preference Optimization, down: both answers become less likely, the rejected one more so."""

from typing import Annotated

import torch
from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def apo_down(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
) -> Tensor:
    """Lowers the chosen answer and keeps it above the rejected one.

        σ(β·a) + 1 − σ(β·d)

    A policy equal to its reference has loss 1, and no gradient in the chosen answer: both terms pull it with equal
    force. It suits pairs of which both answers are worse than what the policy writes; for better ones see `apo_zero`.
    It has nothing to do with *adversarial* preference optimization, the wiring `apo`.

    Args:
        beta: scale of the log-ratios.

    Source: D'Oosterlinck et al., arXiv 2408.06266, eq. 8 (APO-down); TRL's `apo_down`.
    Paper: beta 0.1, lr 2e-7, batch 64 (as TRL's index of papers has it).
    """
    ratios = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return torch.sigmoid(beta * ratios.chosen) + torch.sigmoid(-beta * ratios.delta)


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref)."""
    return beta
