"""PPO's clipped surrogate."""

from typing import Annotated

import torch
from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import require_one_shape


def clipped(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, *, clip_eps: Annotated[float, Bounds(above=0, below=1)] = 0.2
) -> Tensor:
    """Makes tokens of positive advantage likelier, those of negative advantage less likely, but only up to a ratio.

        max(−A·ρ, −A·clip(ρ, 1 − ε, 1 + ε)),   ρ = π(token) / π_old(token)

    The larger loss counts: past the bound on the side that the advantage pushes to, there is no gradient; on the
    other side there is, so a step too far is taken back.

    Args:
        clip_eps: largest change of the ratio that is rewarded.

    Source: Schulman et al., arXiv 1707.06347, eq. 7, whose L is maximised: the sign is turned here.
    Paper: clip_eps 0.2.
    """
    require_one_shape(logps=logps, old_logps=old_logps, advantages=advantages)
    ratio = torch.exp(logps - old_logps)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_eps, 1 + clip_eps))
