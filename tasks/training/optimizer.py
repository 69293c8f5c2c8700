"""The optimizer and the course of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

Schedule = Literal["linear", "cosine", "constant"]


def make_optimizer(
    parameters: Iterable[nn.Parameter], name: str, lr: float, betas: Sequence[float], weight_decay: float
) -> Optimizer:
    """AdamW (decoupled decay on matrices, none on vectors) or RMSprop, as the first DPO and SPPO codes used."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, alpha=0.99, eps=1e-8)
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=1e-8, fused=True)


def lr_at(step: int, steps: int, lr: float, warmup: float, schedule: Schedule) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    It rises in equal parts over the first `warmup` share of the steps, none of which is wasted at 0, then falls to 0
    behind the last step (linear, cosine) or stays.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return lr * (step + 1) / (rising + 1)
    if schedule == "constant":
        return lr
    share = (step - rising) / max(1, steps - rising)
    return lr * (1 - share) if schedule == "linear" else lr * 0.5 * (1 + math.cos(math.pi * share))
