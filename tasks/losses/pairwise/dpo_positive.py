"""DPO-Positive (DPOP): DPO that charges for chosen answers which become less likely."""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def dpo_positive(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.3,
    lam: Annotated[float, Bounds(min=0)] = 50.0,
) -> Tensor:
    """Moves a pair apart without letting the chosen answer fall below its probability under the reference.

        −log σ(β·[d − λ·max(0, −a)])

    Where the chosen answer is at least as likely as under the reference this is DPO, as it is everywhere with λ = 0.
    Training starts on the kink, a = 0, where the penalty has no gradient here, as `relu` has it; torch's `clamp` would
    give λ times DPO's first step, and `maximum` half of that.

    Args:
        beta: temperature; the penalty is multiplied by it too.
        lam: λ, nats of margin that a nat of lost log-probability costs.

    Source: Pal et al., arXiv 2402.13228 (Smaug), eq. 3.
    Paper: beta 0.3, lam 50 (recalled, not verified).
    """
    ratios = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -logsigmoid(beta * (ratios.delta - lam * torch.relu(-ratios.chosen)))


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref), without the penalty."""
    return beta
