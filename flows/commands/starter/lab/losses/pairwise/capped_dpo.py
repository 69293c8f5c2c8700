"""DPO that stops pushing a pair apart where it is far enough apart already."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds


def capped_dpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
    cap: Annotated[float, Bounds(above=0)] = 5.0,
) -> Tensor:
    """−log σ(β · min(δ, cap)), with δ = (log-ratio of the chosen answer) − (log-ratio of the rejected one).

    Args:
        beta: weight of the reference, 1/nats.
        cap: difference of log-ratios, in nats, beyond which a pair has no gradient.
    """
    delta = (policy_chosen_logps - ref_chosen_logps) - (policy_rejected_logps - ref_rejected_logps)
    return -logsigmoid(beta * delta.clamp(max=cap))
