"""CISPO: the importance weight is capped, and no token loses its gradient."""

from typing import Annotated

from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import clamped_ratio, require_one_shape


def cispo(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, *, max_ratio: Annotated[float, Bounds(above=0)] = 5.0
) -> Tensor:
    """Makes tokens of positive advantage likelier, those of negative advantage less likely, each by its capped weight.

        −sg(min(ρ, ε_max))·A·log π(token),   ρ = π(token) / π_old(token)

    sg has no gradient, so the gradient is −min(ρ, ε_max)·A·∇log π: REINFORCE with truncated importance weights. Where
    `clipped` stops learning from a token whose ratio has moved, this one goes on; rare tokens at which reasoning turns
    are such. Nothing but the cap and the learning rate bounds a step.

    Args:
        max_ratio: ε_max, the largest weight of a token.

    Source: MiniMax, arXiv 2506.13585, eq. 4 and 5, whose lower bound is open; ε_max as in Khatri et al. (ScaleRL),
    arXiv 2510.13786. Both maximise: the sign is turned here.
    Paper: max_ratio 5 (TRL 1.16, on its `epsilon_high` for `cispo`).
    """
    require_one_shape(logps=logps, old_logps=old_logps, advantages=advantages)
    return -clamped_ratio(logps, old_logps).clamp(max=max_ratio).detach() * advantages * logps
