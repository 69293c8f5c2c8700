"""Binary classifier optimization on pairs: each answer's implicit reward says by itself whether it is good."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def bco(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
) -> Tensor:
    """Classifies: chosen answers get positive implicit rewards, rejected ones negative ones.

        −log σ(β·a) − log σ(−β·b)

    A policy equal to its reference has loss 2·log 2. The loss bounds DPO's from above. The paper shifts both rewards by
    a running mean δ, which moves the level of the rewards and not their order; TRL 1.16's `bco_pair` has none, and
    neither has this loss, which would else depend on the rows trained on before.

    Args:
        beta: temperature; large keeps the policy near the reference.

    Source: Jung et al., arXiv 2404.04656, without the reward shift; TRL's `bco_pair`.
    Paper: beta 0.01, lr 5e-7, batch 128 (as TRL's index of papers has it).
    """
    ratios = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -logsigmoid(beta * ratios.chosen) - logsigmoid(-beta * ratios.rejected)


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref)."""
    return beta
