"""Choice of a model's attention implementation, and its comparison with transformers' eager attention.

PyTorch's fused attention (sdpa) is fast but silently ignores what it has no argument for, such as the cap on attention
scores of Gemma 2, so that every log-probability is wrong. Eager attention applies everything, but its memory grows with
the square of a row's length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tasks.contract import DataError
from tasks.kinds import Model

NEAR = {torch.float32: 2e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""Tolerance for rounding, in nats or units of score, by the type of the weights."""
_TOKENS = 48
_verified: set[tuple[str, str, str, torch.dtype]] = set()
"""Models compared in this process: class, path, digest, type."""


def attention_of(config: Any) -> str | None:
    """`attn_implementation` for a model; None: transformers' default (sdpa if supported, else eager)."""
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if capped else None


def check_attention(model: Any, source: Model, values: Callable[[Tensor], Tensor]) -> None:
    """Compare the attention in use with eager attention on random tokens, once per model and process.

    values: maps ids `(1, T)` to outputs such as log-probabilities. Both use the loaded weights. Raises DataError if
    they differ by more than rounding.
    """
    key = type(model).__name__, str(source.path), source.digest, model.dtype
    used = model.config._attn_implementation
    if used == "eager" or key in _verified:
        return
    config = model.config.get_text_config()
    length = min(_TOKENS, getattr(config, "max_position_embeddings", None) or _TOKENS)
    ids = torch.randint(config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = values(ids.to(model.device)).float()
        model.set_attn_implementation("eager")
        eager = values(ids.to(model.device)).float()
        model.set_attn_implementation(used)
    worst = (own - eager).abs().flatten().argmax()
    a, b = float(own.flatten()[worst]), float(eager.flatten()[worst])
    if not abs(a - b) <= NEAR.get(model.dtype, NEAR[torch.bfloat16]):
        raise DataError(
            f"{source.path}: {type(model).__name__} gives {a:.4f} with {used} attention and {b:.4f} with "
            'attn_implementation="eager" for the same tokens: its configuration has a setting that '
            f"{used} ignores; handle it in `attention_of` (tasks/training/attention.py)"
        )
    _verified.add(key)
