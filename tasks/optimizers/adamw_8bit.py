"""AdamW whose state has eight bits per number, from torchao."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from tasks.calls import StateBytes
from tasks.contract import Bounds, SpecError

if TYPE_CHECKING:
    from torch.optim import Optimizer

INSTALL = "pip install 'torchao>=0.18'"
UNKEYED = {"importlib.util.find_spec": "whether a package is there decides only whether the step can run"}


def adamw_8bit(
    groups: Sequence[dict[str, Any]],
    *,
    betas: Annotated[tuple[float, float], Bounds(min=0, below=1)] = (0.9, 0.999),
    eps: Annotated[float, Bounds(above=0)] = 1e-8,
    weight_decay: Annotated[float, Bounds(min=0)] = 0.0,
    block_size: int = 256,
) -> Optimizer:
    """AdamW with two numbers of eight bits per parameter, scaled in blocks: 2 bytes of state per parameter.

    Tensors of fewer than 4,096 numbers keep their state in float32. Needs the package torchao.

    Args:
        groups: of parameters.
        betas: decay rates of the mean of gradients and of the mean of their squares.
        eps: added to the root of the mean of squares.
        weight_decay: of matrices, per step and unit of learning rate.
        block_size: numbers that share a scale.

    Source: Dettmers et al., arXiv 2110.02861; torchao.optim.AdamW8bit.
    """
    check_machine()
    from torchao.optim import AdamW8bit

    decayed = [{**g, "weight_decay": weight_decay * g["decays"]} for g in groups]
    return AdamW8bit(decayed, lr=0.0, betas=(betas[0], betas[1]), eps=eps, block_size=block_size)


def state_bytes() -> StateBytes:
    """Two bytes, and two scales of four per block of 256."""
    return StateBytes(device=2 + 8 / 256)


def check_machine() -> None:
    """Raises SpecError where torchao is not installed."""
    from importlib.util import find_spec

    if find_spec("torchao") is None:
        raise SpecError(f"the optimizer adamw_8bit needs the package torchao, which is not installed: {INSTALL}")
