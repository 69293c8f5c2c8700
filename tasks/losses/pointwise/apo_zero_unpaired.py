"""Anchored preference optimization of single answers: each is moved from where the reference has it."""

from typing import Annotated

import torch
from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import require_one_shape


def apo_zero_unpaired(
    policy_logps: Tensor,
    ref_logps: Tensor,
    label: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
) -> Tensor:
    """Makes desirable answers likelier than under the reference, and undesirable ones less likely.

        desirable: 1 − σ(β·a)        undesirable: σ(β·a),      a = log π(y)/π_ref(y)

    This is `kto` with its reference point at 0, so no answers to other prompts are read, and rows are not coupled. A
    policy equal to its reference has loss ½. There is no finite optimum: log-ratios grow, ever more slowly. The name is
    *anchored* preference optimization; the pipeline `apo` is another method, the adversarial one.

    Args:
        beta: temperature; large makes small log-ratios enough.

    Source: D'Oosterlinck et al., arXiv 2408.06266, APO-zero; unpaired as in TRL 1.16's `KTOTrainer`.
    """
    require_one_shape(policy_logps=policy_logps, ref_logps=ref_logps, label=label)
    gain = beta * (policy_logps - ref_logps)
    return torch.where(label, torch.sigmoid(-gain), torch.sigmoid(gain))


def reward_scale(*, beta: float) -> float:
    """The reward β·log(π/π_ref)."""
    return beta
