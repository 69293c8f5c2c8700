"""Which attention a model runs with, and the comparison that shows whether it is the model's own.

PyTorch's fused attention (sdpa) is the fast one and leaves out what it has no argument for, such as the cap on
attention scores of Gemma 2: without a warning, every log-probability is then another model's. transformers' eager
attention is written out and applies everything; its memory grows with the square of a row's length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tasks.contract import DataError
from tasks.kinds import Model

NEAR = {torch.float32: 2e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""Largest difference that rounding explains, in nats or units of score, by the type of the weights."""
_TOKENS = 48
_checked: set[tuple[str, str, str, torch.dtype]] = set()
"""Models compared in this process: class, path, digest, type."""


def attention_of(config: Any) -> str | None:
    """`attn_implementation` for a model; None: sdpa where the architecture has it, else eager."""
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if capped else None


def check_attention(model: Any, source: Model, values: Callable[[Tensor], Tensor]) -> None:
    """Compare the attention in use with the eager one on a row of random tokens, once per model and process.

    values: ids `(1, T)` → what is computed of them, such as log-probabilities. The loaded weights are used for both,
    so nothing is loaded twice. Raises DataError, naming both values, where they differ by more than rounding.
    """
    key = type(model).__name__, str(source.path), source.digest, model.dtype
    used = model.config._attn_implementation
    if used == "eager" or key in _checked:
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
            'attn_implementation="eager" for the same tokens: its configuration asks for something that '
            f"{used} leaves out; name the field in `attention_of` (tasks/training/attention.py)"
        )
    _checked.add(key)
