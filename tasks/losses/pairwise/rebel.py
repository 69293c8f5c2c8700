"""REBEL: the difference of the log-ratios is regressed on the difference of the rewards."""

from typing import Annotated

from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def rebel(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    reward_margin: Tensor,
    *,
    eta: Annotated[float, Bounds(above=0)] = 1.0,
) -> Tensor:
    """Makes the policy's margin η times the margin of the rewards, whichever answer the rewards prefer.

        (d − η·(r_w − r_l))²

    The reference is π_t, the policy that drew both answers. The optimum is π_t·exp(η·r)/Z, for any pairs with full
    support. Equal rewards ask for d = 0. A pair's order says nothing beyond the sign of its margin, and swapping its
    sides changes nothing. A table without reward differences is refused: a guess in their place would be learnt.

    Args:
        eta: step size, rewards to nats. At values like the paper's 1e6 clipping of gradients sets the step.

    Source: Gao et al., arXiv 2404.16767, Algorithm 1, whose regression divides by η: 1/η² of this one.
    Paper: eta 1, lr 3e-6 (TL;DR, src/tldr/rebel.py); eta 1e6, lr 3e-7 (UltraFeedback).
    """
    ratios = pair_log_ratios(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, reward_margin=reward_margin
    )
    return (ratios.delta - eta * reward_margin).square()


def reward_scale(*, eta: float) -> float:
    """log(π/π_t)/η is the reward, up to a constant."""
    return 1 / eta
