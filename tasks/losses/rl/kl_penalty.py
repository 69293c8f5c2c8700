"""PPO's other surrogate: a penalty on the distance from the old policy in place of clipping."""

from typing import Annotated

from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import LARGEST_LOG_RATIO, clamped_ratio, require_one_shape


def kl_penalty(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, *, beta: Annotated[float, Bounds(min=0)] = 1.0
) -> Tensor:
    """Makes tokens of positive advantage likelier, and holds the policy near the one that sampled.

        −A·ρ + β·(ρ − 1 − log ρ),   ρ = π(token) / π_old(token)

    The second term is the estimator k3 of KL(π_old ‖ π) for tokens of π_old: never negative, and its gradient
    β·(ρ − 1)·∇log π is in the mean that of the KL itself. This β bounds the steps; the distance from the reference is
    the reward's matter.

    Args:
        beta: price of a nat; fixed (the paper doubles and halves it to reach a target).

    Source: Schulman et al., arXiv 1707.06347, eq. 8, whose L is maximised: the sign is turned here.
    Paper: betas from 0.3 to 10 (table 1, control tasks).
    """
    require_one_shape(logps=logps, old_logps=old_logps, advantages=advantages)
    ratio = clamped_ratio(logps, old_logps)
    penalty = ratio - 1 - (logps - old_logps).clamp(max=LARGEST_LOG_RATIO)
    return -advantages * ratio + beta * penalty
