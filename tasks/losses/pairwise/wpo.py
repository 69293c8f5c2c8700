"""Weighted preference optimization: DPO whose pairs count by how likely the policy itself is to write them."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def wpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    policy_chosen_log_weights: Tensor,
    policy_rejected_log_weights: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.01,
    max_weight: Annotated[float, Bounds(above=0)] | None = None,
) -> Tensor:
    """Makes old pairs resemble those that the policy would write now: a pair counts by the product of its weights.

        w(y) = exp( mean over t of  log π(y_t) − log Σ_v π(v)² ),   loss = −w(y_w)·w(y_l)·log σ(β·d)

    Weights have no gradient. Σ_v π(v)² is the mean probability of a token that the policy draws, so w is near 1 for
    answers like its own, whether it is sure or not: the mean of log w over its own tokens is H₂ − H ≤ 0, Rényi's minus
    Shannon's entropy, and 0 where π is uniform. Weights of 1 give DPO. With V tokens in the vocabulary, w ≤ √V.

    Args:
        beta: temperature; large keeps the policy near the reference.
        max_weight: largest weight of a pair; null: as the paper's formula..

    Source: Zhou et al., arXiv 2406.11827, eq. 2 with sampled alignment; `use_weighting` of TRL 1.16.
    Paper: beta 0.01.
    """
    delta = pair_log_ratios(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps,
        policy_chosen_log_weights=policy_chosen_log_weights, policy_rejected_log_weights=policy_rejected_log_weights,
    ).delta  # fmt: skip
    weights = (policy_chosen_log_weights + policy_rejected_log_weights).detach().exp()
    if max_weight is not None:
        weights = weights.clamp(max=max_weight)
    return -weights * logsigmoid(beta * delta)


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref), as DPO's."""
    return beta
