"""Float32 weights stored in two parts: rounded to bfloat16 for those who sample, and what rounding took for training.

Both parts together are as large as the float32 weights. The second lies in `state/`, which only trainings read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tasks.kinds import Model

REST = "state/rest.safetensors"


def rest_of(weight: Tensor) -> Tensor:
    """What makes a float32 weight of its rounding to bfloat16: int16, in units of the last place of float32.

    A weight half-way between two of bfloat16 that is rounded down loses one such unit.
    """
    rounded = weight.to(torch.bfloat16).view(torch.int16).int() << 16
    return (weight.contiguous().view(torch.int32) - rounded).clamp_(max=2**15 - 1).to(torch.int16)


def with_rest(rounded: Tensor, rest: Tensor) -> Tensor:
    """The float32 weight. `rounded` is float32 with a value of bfloat16."""
    return (rounded.contiguous().view(torch.int32) + rest.int()).view(torch.float32)


def save_rest(model: Any, directory: Path) -> None:
    """Write what float32 weights lose as bfloat16 into `directory/state/`."""
    (directory / REST).parent.mkdir(exist_ok=True)
    save_file({name: rest_of(weight.detach().cpu()) for name, weight in model.named_parameters()}, directory / REST)


def add_rest(model: Any, source: Model) -> None:
    """Give float32 weights back what rounding took, where the source was stored so."""
    if not (source.path / REST).exists():
        return
    weights = dict(model.named_parameters())
    with safe_open(source.path / REST, "pt") as rest:
        for name in set(rest.keys()) & weights.keys():  # a reward model has no head of words
            weights[name].data = with_rest(weights[name].data, rest.get_tensor(name))
