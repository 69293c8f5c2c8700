"""SLiC-HF: a margin between the likelihoods of chosen and rejected answers, held by the likelihood of a target."""

from typing import Annotated

import torch
from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import require_one_shape


def slic(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    target_logps: Tensor,
    *,
    delta: Annotated[float, Bounds(min=0)] = 1.0,
    lam: Annotated[float, Bounds(min=0)] = 0.5,
) -> Tensor:
    """Moves a pair apart until the chosen answer is δ nats likelier, and keeps the target likely all the while.

        max(0, δ − S_w + S_l) − λ·log π(y_target)

    There is no reference: the target's cross-entropy is what holds the policy. The target is a demonstration, or the
    best of several sampled answers; without a table of targets it is the chosen answer. Pairs beyond the margin move
    the target alone. `hinge` is the same margin between log-ratios. The code of HALOs adds a matrix of token
    log-probabilities to a loss per sequence, which is not this loss.

    Args:
        delta: δ, the margin that is enough, in nats of whole answers.
        lam: λ, weight of the target's cross-entropy.

    Source: Zhao et al., arXiv 2305.10425 (SLiC-HF).
    Paper: lr 1e-4, batch 512 (as TRL's index of papers has it).
    """
    require_one_shape(
        policy_chosen_logps=policy_chosen_logps, policy_rejected_logps=policy_rejected_logps, target_logps=target_logps
    )
    return torch.relu(delta - policy_chosen_logps + policy_rejected_logps) - lam * target_logps
