"""LD-DPO: DPO in which the tokens that only the longer answer has count less."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def ld_dpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    policy_chosen_common_logps: Tensor,
    policy_rejected_common_logps: Tensor,
    ref_chosen_common_logps: Tensor,
    ref_rejected_common_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
    alpha: Annotated[float, Bounds(min=0, max=1)] = 0.5,
) -> Tensor:
    """Takes the part of DPO's margin that comes from length alone out of it.

    S' sums an answer's log-probability over as many first tokens as the shorter answer has; the rest counts α times:

        Ŝ = S' + α·(S − S'),   â and b̂ are the log-ratios of Ŝ,   loss = −log σ(β·(â − b̂))

    α = 1 is DPO; at 0 the tokens beyond the shorter answer have no gradient. In the shorter answer Ŝ = S. Policy and
    reference are discounted alike, so that a policy equal to its reference has loss log 2.

    Args:
        beta: temperature; large keeps the policy near the reference.
        alpha: how much a token beyond the length of the shorter answer counts.

    Source: Liu et al., arXiv 2409.06411; `ld_alpha` of TRL 1.16, which discounts both as well.
    Paper: alpha 0.5, as TRL's index of papers has it.
    """
    whole = pair_log_ratios(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps,
        policy_chosen_common_logps=policy_chosen_common_logps,
    )  # fmt: skip
    common = pair_log_ratios(
        policy_chosen_common_logps, policy_rejected_common_logps, ref_chosen_common_logps, ref_rejected_common_logps
    )
    return -logsigmoid(beta * (common.delta + alpha * (whole.delta - common.delta)))


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref) of whole answers, as DPO's."""
    return beta
