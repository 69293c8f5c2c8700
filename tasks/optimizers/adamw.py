"""AdamW, one fused kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from tasks.calls import StateBytes
from tasks.contract import Bounds

if TYPE_CHECKING:
    from torch.optim import Optimizer


def adamw(
    groups: Sequence[dict[str, Any]],
    *,
    betas: Annotated[tuple[float, float], Bounds(min=0, below=1)] = (0.9, 0.999),
    eps: Annotated[float, Bounds(above=0)] = 1e-8,
    weight_decay: Annotated[float, Bounds(min=0)] = 0.0,
) -> Optimizer:
    """Adam with decoupled weight decay: 8 bytes of state per parameter.

    Args:
        groups: of parameters.
        betas: decay rates of the mean of gradients and of the mean of their squares.
        eps: added to the root of the mean of squares.
        weight_decay: of matrices, per step and unit of learning rate.

    Source: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2.
    """
    import torch

    decayed = [{**g, "weight_decay": weight_decay * g["decays"]} for g in groups]
    return torch.optim.AdamW(decayed, lr=0.0, betas=(betas[0], betas[1]), eps=eps, fused=True)


def state_bytes() -> StateBytes:
    """Two means in float32."""
    return StateBytes(device=8)


def steps_by_element() -> bool:
    """Its state belongs to single numbers."""
    return True
