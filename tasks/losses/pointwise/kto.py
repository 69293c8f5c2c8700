"""Kahneman-Tversky Optimization: single answers with a thumb up or down, as gains and losses from a reference point."""

from typing import Annotated

import torch
from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import require_one_shape


def kto(
    policy_logps: Tensor,
    ref_logps: Tensor,
    label: Tensor,
    kl_reference: Tensor,
    desirable_share: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
    lambda_d: Annotated[float, Bounds(min=0)] = 1.0,
    lambda_u: Annotated[float, Bounds(min=0)] = 1.0,
    balance: bool = False,
) -> Tensor:
    """Raises desirable answers above a reference point and lowers undesirable ones below it.

        desirable:    λ_D·(1 − σ(β·(a − z)))
        undesirable:  λ_U·(1 − σ(β·(z − a))),      z = max(0, mean over the batch of log π(y′|x)/π_ref(y′|x))

    with a = log π(y)/π_ref(y) of the answer. The reference point z estimates KL(π ‖ π_ref) on answers y′ to other
    prompts. It couples the rows of the optimizer batch, but through a number only: the mean is that of the whole batch
    on all ranks, it is clamped at 0 as a mean and not answer by answer, β does not scale it before the clamp, and no
    gradient goes through it. Detached like this the loss has no finite optimum: with q = P(desirable | y) the mass runs
    to answers with λ_D·q > λ_U·(1 − q), and the log-ratios of the others fall for ever.

    Args:
        beta: temperature, or how averse to risk the answers' value is.
        lambda_d: λ_D, weight of desirable answers.
        lambda_u: λ_U, weight of undesirable ones. The paper recommends λ_D·n_D / (λ_U·n_U) in [1, 4/3].
        balance: multiplies the weight of the rarer class by the ratio of the counts, so that both classes of the table
            weigh alike where λ_D = λ_U.

    Source: Ethayarajh et al., arXiv 2402.01306, section 4; TRL 1.16's `KTOTrainer`, which mismatches
    answers within a device's batch.
    Paper: beta 0.1, weights 1, lr 5e-6, AdamW (its code, HALOs).
    """
    require_one_shape(
        policy_logps=policy_logps, ref_logps=ref_logps, label=label, kl_reference=kl_reference,
        desirable_share=desirable_share,
    )  # fmt: skip
    z = torch.relu(kl_reference.detach())
    gain = beta * (policy_logps - ref_logps - z)
    desirable, undesirable = lambda_d * torch.sigmoid(-gain), lambda_u * torch.sigmoid(gain)
    if balance:
        odds = desirable_share / (1 - desirable_share)
        desirable, undesirable = desirable * (1 / odds).clamp(min=1), undesirable * odds.clamp(min=1)
    return torch.where(label, desirable, undesirable)


def reward_scale(*, beta: float) -> float:
    """The reward β·log(π/π_ref) that is compared with the reference point."""
    return beta
