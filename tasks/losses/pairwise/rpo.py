"""DPO with the likelihood of the chosen answers (Iterative Reasoning Preference Optimization)."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def rpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
    alpha: Annotated[float, Bounds(min=0)] = 1.0,
) -> Tensor:
    """Moves a pair apart while the chosen answer stays likely.

        −log σ(β·d) − α·S_w/n_w

    α = 0 is DPO. The likelihood is a mean per answer, so that long answers count like short ones; TRL's
    `loss_type=["sigmoid", "sft"]` takes it over all tokens of a micro-batch. "RPO" names other losses too: Regularized
    (Liu et al., arXiv 2405.16436, the same shape) and Reward-aware Preference Optimization (NVIDIA).

    Args:
        beta: temperature; large keeps the policy near the reference.
        alpha: weight of the chosen answer's negative log-probability per token.

    Source: Pang et al., arXiv 2404.19733, eq. 1.
    Paper: alpha 1, beta 0.1; Liu et al.: alpha 0.005, beta 0.01, lr 5e-7.
    """
    ratios = pair_log_ratios(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, chosen_lengths=chosen_lengths
    )
    return -logsigmoid(beta * ratios.delta) - alpha * policy_chosen_logps / chosen_lengths


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref)."""
    return beta
