"""Robust DPO: an unbiased estimate of DPO's loss from labels of which a known share is flipped."""

from typing import Annotated

from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import label_cross_entropy, pair_log_ratios


def robust_dpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
    label_smoothing: Annotated[float, Bounds(min=0, below=0.5)] = 0.1,
) -> Tensor:
    """Has in the mean over flipped labels the value and the gradient of DPO on the true ones.

        [−(1 − ε)·log σ(β·d) + ε·log σ(−β·d)] / (1 − 2ε)

    ε = 0 is DPO. A policy equal to its reference has loss log 2. Unlike label smoothing (`dpo`), which holds the margin
    at a finite value, this pushes every pair apart for ever: far apart the loss falls as −ε·β·d/(1 − 2ε), below 0.

    Args:
        beta: temperature; large keeps the policy near the reference.
        label_smoothing: ε, the share of flipped labels, below ½.

    Source: Chowdhury, Kini and Natarajan, arXiv 2403.00409 (rDPO); TRL's `robust`.
    Paper: beta 0.01, label_smoothing 0.1, lr 1e-3, batch 16 (as TRL's index of papers has it).
    """
    ratios = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    flipped = label_smoothing / (1 - 2 * label_smoothing)
    return label_cross_entropy(beta * ratios.delta, 1 + flipped)


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref)."""
    return beta
