"""DiscoPOP: a blend of the logistic and the exponential curve that a language model proposed."""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def discopop(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
    tau: Annotated[float, Bounds(above=0, max=1)] = 0.05,
) -> Tensor:
    """Judges pairs in the wrong order by the logistic curve, and those in the right order by the exponential one.

        (1 − m)·log(1 + e^−z) + m·e^−z,   z = β·d,   m = σ(z/τ)

    A policy equal to its reference has loss ½·(1 + log 2). The loss is not convex: at τ = 0.05 it rises from z = −0.119
    to z = 0.072, and falls on both sides of that, so pairs between are pushed the wrong way. A policy equal to its
    reference is one of them: the slope at z = 0 is −¾ + (1 − log 2)/(4τ), +0.784 there.

    Args:
        beta: temperature; large keeps the policy near the reference.
        tau: width of the blend, in units of β·d; above 1 the exponential's share would have no bound.

    Source: Lu et al., arXiv 2406.08414, eq. 5 (log-ratio modulated loss); TRL's `discopop`.
    Paper: tau 0.05, beta 0.05, lr 5e-7, batch 64 (as TRL's index of papers has it).
    """
    ratios = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    margin = beta * ratios.delta
    logistic = torch.sigmoid(-margin / tau) * -logsigmoid(margin)
    return logistic + torch.exp(logsigmoid(margin / tau) - margin)  # m and e^−z apart would be 0 · ∞


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref)."""
    return beta
