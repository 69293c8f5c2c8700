"""The hinge on normalised likelihoods (RSO's hinge-norm)."""

from typing import Annotated

import torch
from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def hinge(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
) -> Tensor:
    """Moves a pair apart until its margin is 1/β, and then leaves it alone.

        max(0, 1 − β·d)

    A policy equal to its reference has loss 1. Pairs beyond the margin have no gradient. This is not the loss of
    SLiC-HF, whose margin is of the policy alone, without a reference (`slic`).

    Args:
        beta: the paper's γ; the margin that is enough is 1/β nats.

    Source: Liu et al., arXiv 2309.06657 (RSO), the loss hinge-norm of section 3.2.
    Paper: γ 0.05, lr 1e-5, batch 32, Adafactor.
    """
    ratios = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return torch.relu(1 - beta * ratios.delta)


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref), in which the margin is 1."""
    return beta
