"""DPO that holds chosen and rejected answers to the reference with two temperatures."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def dpo_two_betas(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta_plus: Annotated[float, Bounds(above=0)] = 0.1,
    beta_minus: Annotated[float, Bounds(above=0)] = 0.1,
) -> Tensor:
    """Weighs what becomes of the chosen answer against what becomes of the rejected one.

        −log σ(β⁺·a − β⁻·b)

    Equal betas are DPO. A larger β⁺ moves the chosen answer more than the rejected one for the same loss. With
    different betas a prefix that both answers share does not cancel, and there is no one implicit reward.

    Args:
        beta_plus: β⁺, of the chosen answer's log-ratio.
        beta_minus: β⁻, of the rejected answer's.

    Source: this project's own; no paper with reference code is known.
    """
    ratios = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -logsigmoid(beta_plus * ratios.chosen - beta_minus * ratios.rejected)
