"""AOT: the distribution of the policy's margins is moved beyond that of the reference's, not margin by margin."""

from typing import Annotated

import torch
from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import label_cross_entropy, require_one_shape


def aot(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
    label_smoothing: Annotated[float, Bounds(min=0, below=0.5)] = 0.0,
) -> Tensor:
    """Compares the k-th smallest margin of the policy in a batch with the k-th smallest of the reference.

        −(1 − ε)·log σ(β·D_k) − ε·log σ(−β·D_k),   D_k = u_(k) − v_(k)

    u = S_w − S_l of the policy and v the same of the reference, each sorted over the batch. So the policy's margins are
    to exceed the reference's in distribution (first-order stochastic dominance), whichever pairs they belong to. The
    loss of a row is that of its own margin u, at its place in the order.

    It couples the rows of the optimizer batch, whole, however it is cut into micro-batches or spread over ranks: a
    larger batch is another loss. In a batch of one pair it is `dpo` with label smoothing.

    Args:
        beta: temperature.
        label_smoothing: ε, the share of labels taken to be wrong.

    Source: Melnyk et al., arXiv 2406.05882, the paired variant; TRL 1.16's `aot`, which sorts over a micro-batch.
    """
    require_one_shape(
        policy_chosen_logps=policy_chosen_logps, policy_rejected_logps=policy_rejected_logps,
        ref_chosen_logps=ref_chosen_logps, ref_rejected_logps=ref_rejected_logps,
    )  # fmt: skip
    margins = policy_chosen_logps - policy_rejected_logps
    place = margins.argsort(stable=True).argsort(stable=True)
    ref_margins = torch.sort(ref_chosen_logps - ref_rejected_logps).values
    return label_cross_entropy(beta * (margins - ref_margins[place]), 1 - label_smoothing)


def reward_scale(*, beta: float) -> float:
    """β·log(π/π_ref), whose margins are compared in distribution."""
    return beta


def couples_rows() -> bool:
    """A row's place in the order depends on the whole batch."""
    return True
