"""EXO: the reverse KL between the policy's and the labels' distribution over the two answers of a pair."""

from math import log
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def exo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
    label_smoothing: Annotated[float, Bounds(above=0, below=0.5)] = 1e-3,
) -> Tensor:
    """Makes σ(β·d), the probability with which the policy prefers chosen, the 1 − ε of the label.

        σ(β·d)·[log σ(β·d) − log(1 − ε)] + σ(−β·d)·[log σ(−β·d) − log ε]

    This is KL(policy ‖ label) where DPO with smoothed labels has KL(label ‖ policy) up to a constant; both are least at
    β·d = log((1 − ε)/ε), EXO at 0. Its gradient vanishes for pairs that are far in the wrong order. Without smoothing
    the KL would be infinite, so ε is above 0.

    Args:
        beta: temperature; large keeps the policy near the reference.
        label_smoothing: ε, the probability that the label is wrong.

    Source: Ji et al., arXiv 2402.00856, eq. 16 (EXO-pref) with two answers; TRL's `exo_pair`.
    Paper: beta 0.1, lr 1e-6, batch 64 (as TRL's index of papers has it).
    """
    logits = (
        beta * pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps).delta
    )
    chosen = torch.sigmoid(logits) * (logsigmoid(logits) - log(1 - label_smoothing))
    return chosen + torch.sigmoid(-logits) * (logsigmoid(-logits) - log(label_smoothing))


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref)."""
    return beta
