"""Adapters made from nothing: random layers that change what a tiny policy answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tasks.calls import Adapter
from tasks.kinds import Policy
from tasks.training.adapters import add_layers, layers_of
from tasks.training.model import open_model, save_model


def adapted_model(base: Policy, seed: int, rank: int = 4, targets: Sequence[str] = ("all-linear",)) -> Any:
    """The base with layers of which neither matrix is 0, so that they add about as much as the base's own products."""
    model = open_model(base, torch.float32)
    add_layers(model, Adapter(rank, 2.0 * rank, tuple(targets)), seed=seed)
    noise = torch.Generator().manual_seed(seed)
    for layer in layers_of(model).values():
        b = layer.lora_B["default"].weight
        b.data = torch.randn(b.shape, generator=noise) * 0.5
    return model


def adapter_policy(
    base: Policy, directory: Path, seed: int, rank: int = 4, targets: Sequence[str] = ("all-linear",)
) -> Policy:
    """An adapter of `base` in `directory`."""
    directory.mkdir(parents=True)
    save_model(adapted_model(base, seed, rank, targets), base, directory)
    return Policy(directory, digest=f"adapter-{base.digest}-{seed}-{rank}-{'-'.join(targets)}", base=base)
