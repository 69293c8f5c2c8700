"""Noise contrastive alignment on pairs: the level of the log-ratios is learnt, not only their difference."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def nca(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
) -> Tensor:
    """Raises the chosen answer above its reference, holds it back where it is far above, and lowers the rejected one.

        −log σ(β·a) − ½·log σ(−β·a) − ½·log σ(−β·b)

    A policy equal to its reference has loss 2·log 2. The chosen answer's own optimum is σ(β·a) = ⅔, β·a = log 2; the
    rejected one has none. A prefix that both answers share does not cancel.

    Args:
        beta: temperature; large keeps the policy near the reference.

    Source: Chen et al., arXiv 2402.05369 (NCA for pairs: K = 2, reward all on the chosen answer); TRL's `nca_pair`.
    Paper: beta 0.01, lr 5e-6, batch 32 (as TRL's index of papers has it).
    """
    ratios = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen, rejected = beta * ratios.chosen, beta * ratios.rejected
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref)."""
    return beta
