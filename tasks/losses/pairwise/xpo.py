"""Exploratory Preference Optimization: DPO that is pushed away from the answers of its reference."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def xpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    target_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
    alpha: Annotated[float, Bounds(min=0)] = 1e-5,
) -> Tensor:
    """Learns pairs as DPO does, and makes answers that the reference draws less likely, so that others are explored.

        −log σ(β·d) + α·log π(y_target),   y_target ~ π_ref

    The bonus is optimism about answers that were not compared. It has no bound: α·log π falls for ever, so α is small.
    The targets must be drawn by the reference, so a step without a table of `targets` is refused: its chosen answers
    would be pushed down instead. α = 0 is `dpo`.

    Args:
        beta: temperature; large keeps the policy near the reference.
        alpha: α, weight of the bonus.

    Source: Xie et al., arXiv 2405.21046, Algorithm 1.
    Paper: alpha 5e-6 (oat's code); TRL's default was 1e-5.
    """
    ratios = pair_log_ratios(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, target_logps=target_logps
    )
    return -logsigmoid(beta * ratios.delta) + alpha * target_logps


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref) of its DPO term."""
    return beta


def needs_targets() -> bool:
    """The chosen answer is no draw of the reference."""
    return True
