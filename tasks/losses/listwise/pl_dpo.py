"""DPO on rankings: the policy's implicit rewards order the answers to a prompt."""

from typing import Annotated

from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import ranking_cross_entropy, require_one_shape


def pl_dpo(
    policy_logps: Tensor,
    ref_logps: Tensor,
    target_scores: Tensor,
    mask: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
) -> Tensor:
    """Makes the ranking of the answers likely under Plackett-Luce, with β·log(π/π_ref) as strengths.

        −Σ_{k<K} [x_k − log Σ_{j≥k} exp(x_j)],   x = β·log(π/π_ref), answers in the order of their scores

    A policy equal to its reference has loss log K!. Two answers make it DPO. Only the order of the scores counts; equal
    scores are not compared with each other, so a prompt whose answers all tie has loss and gradient 0. Rankings drawn
    from Plackett-Luce with rewards r have the optimum π* ∝ π_ref·exp(r/β).

    Args:
        beta: temperature; large keeps the policy near the reference.

    Source: Rafailov et al., arXiv 2305.18290, appendix A.3, eq. 20; `ranking_cross_entropy` says how ties count.
    """
    require_one_shape(policy_logps=policy_logps, ref_logps=ref_logps, target_scores=target_scores)
    return ranking_cross_entropy(beta * (policy_logps - ref_logps), target_scores, mask)


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref)."""
    return beta
