"""PPO's clipped surrogate."""

from typing import Annotated

import torch
from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import clamped_ratio, require_one_shape


def clipped(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    *,
    clip_eps: Annotated[float, Bounds(above=0, below=1)] = 0.2,
    clip_high: Annotated[float, Bounds(above=0)] | None = None,
) -> Tensor:
    """Makes tokens of positive advantage likelier, those of negative advantage less likely, but only up to a ratio.

        max(−A·ρ, −A·clip(ρ, 1 − ε, 1 + ε_high)),   ρ = π(token) / π_old(token)

    The larger loss counts: past the bound on the side that the advantage pushes to, there is no gradient; on the
    other side there is, so a step too far is taken back.

    Args:
        clip_eps: largest change of the ratio that is rewarded; the bounds of GSPO's mean ratio of an answer are far
            narrower, 3e-4 below and 4e-4 above (arXiv 2507.18071, §5.1).
        clip_high: largest rise of the ratio; default: `clip_eps`. A larger one lets unlikely tokens become likely in
            fewer steps, which keeps entropy up (DAPO's clip-higher: 0.28 beside 0.2; arXiv 2503.14476, §3.1).

    Source: Schulman et al., arXiv 1707.06347, eq. 7, whose L is maximised: the sign is turned here.
    Paper: clip_eps 0.2.
    """
    require_one_shape(logps=logps, old_logps=old_logps, advantages=advantages)
    ratio = clamped_ratio(logps, old_logps)
    high = clip_eps if clip_high is None else clip_high
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_eps, 1 + high))
