"""The optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer


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
