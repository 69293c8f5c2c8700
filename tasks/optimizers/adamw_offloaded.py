"""AdamW on the CPU, for models whose optimizer does not fit on the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from tasks.calls import StateBytes
from tasks.contract import Bounds
from tasks.optimizers.adamw import adamw

if TYPE_CHECKING:
    from torch.optim import Optimizer


def adamw_offloaded(
    groups: Sequence[dict[str, Any]],
    *,
    betas: Annotated[tuple[float, float], Bounds(min=0, below=1)] = (0.9, 0.999),
    eps: Annotated[float, Bounds(above=0)] = 1e-8,
    weight_decay: Annotated[float, Bounds(min=0)] = 0.0,
) -> Optimizer:
    """AdamW whose state and float32 weights lie in the machine's memory: 16 bytes there per parameter, none on the GPU.

    Gradients are copied after they are clipped. (torchao's CPUOffloadOptimizer copies them during the backward pass, so
    that clipping would change nothing.)

    Args:
        groups: of parameters.
        betas: decay rates of the mean of gradients and of the mean of their squares.
        eps: added to the root of the mean of squares.
        weight_decay: of matrices, per step and unit of learning rate.
    """
    return adamw(groups, betas=betas, eps=eps, weight_decay=weight_decay)


def state_bytes() -> StateBytes:
    """Two means in float32, on the host."""
    return StateBytes(host=8)


def steps_by_element() -> bool:
    """Its state belongs to single numbers."""
    return True
