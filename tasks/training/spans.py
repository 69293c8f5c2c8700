"""Attention of a packed row answer by answer: exact work, no mask of the row's square.

A span of queries attends to its prompt, if it has one of its own before it, and causally to itself
(`tasks.training.batches.Span`). Queries are consecutive; the keys of a shared prompt are repeated for each of its
answers. On a GPU in half precision one FlashAttention call of variable lengths computes all spans, else PyTorch's fused
attention computes one span at a time. The attention over whole rows with a mask is what tests compare with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tasks.training.batches import Span
from tasks.training.rows import Ints

NAME = "alignflow_spans"
"""Name of the implementation in a model's configuration."""


class SpanInputs(NamedTuple):
    """S spans of a packed row of T tokens, whose keys are K tokens with repeated prompts."""

    spans: tuple[Span, ...]
    keys: Tensor | None
    """`(K,)`: the token of each key; None: the row's tokens as they are, because no prompt is shared."""
    query_ends: Tensor
    """`(S + 1,)` int32: a 0, then where each span's queries end."""
    key_ends: Tensor
    """`(S + 1,)` int32: the same of its keys."""
    longest_query: int
    key_lengths: tuple[int, ...]
    """`(S,)`: keys of each span, known without waiting for a GPU."""
    masks: dict[tuple[int, int], Tensor]
    """By numbers of queries and keys: what the first layer made and the others use again."""


def span_inputs(spans: Sequence[Span], to_device: Callable[[Ints], Tensor]) -> SpanInputs:
    prompts = np.array([s.prompt[1] - s.prompt[0] for s in spans])
    queries = np.array([s.end - s.start for s in spans])
    shared = bool(prompts.any())
    keys = np.concatenate([np.r_[slice(*s.prompt), s.start : s.end] for s in spans]) if shared else None
    return SpanInputs(
        tuple(spans), None if keys is None else to_device(keys), to_device(_ends(queries)),
        to_device(_ends(queries + prompts)), int(queries.max()), tuple((queries + prompts).tolist()), {},
    )  # fmt: skip


def _ends(lengths: Ints) -> Any:
    return np.cumsum([0, *lengths]).astype(np.int32)


@cache
def register() -> None:
    """Make transformers know the implementation; without spans a model builds masks as for its fused attention."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, span_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def span_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    spans: SpanInputs | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention of a layer, `(1, heads, T, d)` each → `(1, T, heads, d)`, as transformers calls it.

    Without `spans`: transformers' own fused attention.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if spans is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    device = query.device.type
    if torch.is_autocast_enabled(device):
        query, key, value = (x.to(torch.get_autocast_dtype(device)) for x in (query, key, value))
    kernel = _flash_kernel(device, query.dtype)
    if kernel is None:
        return _one_by_one(query, key, value, spans, scaling), None
    return _at_once(kernel, query, key, value, spans, scaling), None


def _one_by_one(query: Tensor, key: Tensor, value: Tensor, spans: SpanInputs, scaling: float | None) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    queries = query.split([s.end - s.start for s in spans.spans], dim=2)
    key, value = (_taken(x, spans.keys, dim=2).repeat_interleave(groups, dim=1) for x in (key, value))
    keys, values = (x.split(spans.key_lengths, dim=2) for x in (key, value))
    out = [_attended(*each, scaling, spans.masks) for each in zip(queries, keys, values, strict=True)]
    return torch.cat(out, dim=2).transpose(1, 2)


def _attended(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, masks: dict[tuple[int, int], Tensor]
) -> Tensor:
    """Attention of the last tokens of a text to all up to themselves."""
    sizes, mask = (query.shape[2], key.shape[2]), None
    if sizes[0] < sizes[1]:
        mask = masks.get(sizes)
        if mask is None:
            hidden = torch.full(sizes, -torch.inf, device=query.device, dtype=query.dtype)
            mask = masks[sizes] = hidden.triu(sizes[1] - sizes[0] + 1)
    return nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
    )


def _at_once(
    kernel: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, spans: SpanInputs, scaling: float | None
) -> Tensor:
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    key, value = (_taken(x, spans.keys, dim=0) for x in (key, value))
    out = kernel(
        query, key, value, spans.query_ends, spans.key_ends, spans.longest_query, max(spans.key_lengths),
        scale=scaling, window_size=(-1, 0),
    )  # fmt: skip
    return out[None]


def _taken(x: Tensor, places: Tensor | None, dim: int) -> Tensor:
    """The tokens at `places`, in dimension `dim`; all of them where there are none."""
    if places is None:
        return x
    tokens = x.movedim(dim, 0)
    # `embedding` and not an index: its backward sums repeated rows in a fixed order.
    taken = nn.functional.embedding(places, tokens.reshape(len(tokens), -1))
    return taken.view(-1, *tokens.shape[1:]).movedim(0, dim)


@cache
def _flash_kernel(device: str, dtype: torch.dtype) -> Callable[..., Tensor] | None:
    """PyTorch's FlashAttention for variable lengths, whose causal mask ends at the last key, where it is at hand."""
    if device != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    if not {"window_size", "scale"} <= known.keys():
        return None
    grouped = {"enable_gqa": True} if "enable_gqa" in known else {}
    return lambda *tensors, **options: varlen_attn(*tensors, **options, **grouped)
