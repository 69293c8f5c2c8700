"""Adafactor, which keeps a mean per row and per column of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from tasks.calls import StateBytes
from tasks.contract import Bounds

if TYPE_CHECKING:
    from torch.optim import Optimizer


def adafactor(
    groups: Sequence[dict[str, Any]],
    *,
    decay_rate: Annotated[float, Bounds(min=-1, below=0)] = -0.8,
    clip_threshold: Annotated[float, Bounds(above=0)] = 1.0,
    weight_decay: Annotated[float, Bounds(min=0)] = 0.0,
) -> Optimizer:
    """Adam's second mean from its row and column means, without a first mean: next to no state.

    The learning rate is that of the training: updates are not scaled by the weights' size. Those of transformers.

    Args:
        groups: of parameters.
        decay_rate: c of the decay rate 1 − t^c of the means at step t.
        clip_threshold: an update with a larger root mean square is scaled down to it.
        weight_decay: of matrices, per step and unit of learning rate.

    Source: Shazeer and Stern, arXiv 1804.04235, algorithms 4 and 5.
    """
    from transformers import Adafactor

    decayed = [{**g, "weight_decay": weight_decay * g["decays"]} for g in groups]
    return Adafactor(
        decayed, lr=0.0, decay_rate=decay_rate, clip_threshold=clip_threshold, scale_parameter=False,
        relative_step=False, warmup_init=False,
    )  # fmt: skip


def state_bytes() -> StateBytes:
    """The means of rows and columns are less than a hundredth of the weights."""
    return StateBytes(device=0.04)
