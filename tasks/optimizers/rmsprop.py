"""RMSprop, as the first codes of DPO and SPPO use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from tasks.calls import StateBytes
from tasks.contract import Bounds

if TYPE_CHECKING:
    from torch.optim import Optimizer


def rmsprop(
    groups: Sequence[dict[str, Any]],
    *,
    decay: Annotated[float, Bounds(min=0, below=1)] = 0.99,
    eps: Annotated[float, Bounds(above=0)] = 1e-8,
    weight_decay: Annotated[float, Bounds(min=0)] = 0.0,
) -> Optimizer:
    """Gradients divided by the root of the mean of their squares: 4 bytes of state per parameter.

    Args:
        groups: of parameters.
        decay: rate of the mean of squares.
        eps: added to its root.
        weight_decay: of matrices, added to their gradients.

    Source: the trainers of eric-mitchell/direct-preference-optimization and of uclaml/SPPO, with torch's constants.
    """
    import torch

    decayed = [{**g, "weight_decay": weight_decay * g["decays"]} for g in groups]
    return torch.optim.RMSprop(decayed, lr=0.0, alpha=decay, eps=eps)


def state_bytes() -> StateBytes:
    """One mean in float32."""
    return StateBytes(device=4)


def steps_by_element() -> bool:
    """Its state belongs to single numbers."""
    return True
