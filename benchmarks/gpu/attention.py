"""Attention of one layer, forward and backward: what rows of several texts cost by each way to mask them.

32 heads and 8 key-value heads of 128 channels. A row is one prompt of half its length with two answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.gpu.bare import this_device
from benchmarks.gpu.timing import median_seconds


class Case(NamedTuple):
    """Queries, keys and values `(1, heads, T, channels)` of one row, and the text of each of its tokens."""

    q: Any
    k: Any
    v: Any
    texts: Any
    """`(T,)`: 0 for the prompt, 1 and 2 for the answers."""

    @property
    def groups(self) -> int:
        """Query heads per key-value head."""
        return int(self.q.shape[1] // self.k.shape[1])


def run(*, tiny: bool, ceiling: float | None) -> dict[str, Any]:
    del ceiling
    ways = {"causal": causal, "dense mask": dense_mask, "block mask": block_mask, "varlen": varlen}
    lengths = (64,) if tiny else (2_048, 4_096, 8_192)
    return {"rows": [row(name, way, length, tiny) for length in lengths for name, way in ways.items()]}


def row(name: str, way: Callable[[Case], Callable[[], Any]], length: int, tiny: bool) -> dict[str, Any]:
    name = f"{name}, {length} tokens"
    try:
        case = case_of(length, tiny)
        forward = way(case)

        def both() -> None:
            forward().sum().backward()

        with_gradient = median_seconds(both)
        return {"name": name, "seconds": with_gradient, "forward_seconds": median_seconds(forward)}
    except Exception as e:  # a way that this version or device lacks, reported by whatever it raises
        return {"name": name, "error": f"{type(e).__name__}: {e}"[:300]}


def case_of(length: int, tiny: bool) -> Case:
    import torch

    device = this_device()
    heads, kv_heads, channels = (4, 2, 16) if tiny else (32, 8, 128)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    q, k, v = (
        torch.randn(1, n, length, channels, device=device, dtype=dtype, requires_grad=True)
        for n in (heads, kv_heads, kv_heads)
    )
    half, quarter = length // 2, length // 4
    texts = torch.tensor([0] * half + [1] * quarter + [2] * (length - half - quarter), device=device)
    return Case(q, k, v, texts)


def causal(case: Case) -> Callable[[], Any]:
    """One text only: the least that any mask can cost."""
    from torch.nn.functional import scaled_dot_product_attention

    return lambda: scaled_dot_product_attention(case.q, case.k, case.v, is_causal=True, enable_gqa=True)


def dense_mask(case: Case) -> Callable[[], Any]:
    """A number for every two tokens, and keys repeated for each query head, as transformers passes them on."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    texts = case.texts
    visible = ((texts[:, None] == texts[None, :]) | (texts[None, :] == 0)).tril()
    mask = torch.zeros(visible.shape, dtype=case.q.dtype, device=case.q.device)
    mask.masked_fill_(~visible, torch.finfo(mask.dtype).min)

    def forward() -> Any:
        k, v = (x.repeat_interleave(case.groups, dim=1) for x in (case.k, case.v))
        return scaled_dot_product_attention(case.q, k, v, attn_mask=mask[None, None])

    return forward


def block_mask(case: Case) -> Callable[[], Any]:
    """FlexAttention, compiled: blocks that no token sees are skipped."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    texts, length = case.texts, len(case.texts)
    if case.q.device.type == "cpu":
        raise NotImplementedError("FlexAttention has no backward pass on a CPU")

    def visible(_b: Any, _h: Any, query: Any, key: Any) -> Any:
        return (query >= key) & ((texts[query] == texts[key]) | (texts[key] == 0))

    mask = create_block_mask(visible, None, None, length, length, device=str(case.q.device))
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(case.q, case.k, case.v, block_mask=mask, enable_gqa=True)


def varlen(case: Case) -> Callable[[], Any]:
    """Four texts of a quarter each, one behind the other: no prompt is shared."""
    import inspect

    import torch
    from torch.nn.attention.varlen import varlen_attn

    length = len(case.texts)
    ends = torch.arange(5, device=case.q.device, dtype=torch.int32) * (length // 4)
    known = inspect.signature(varlen_attn).parameters
    causal = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}

    def forward() -> Any:
        q = case.q[0].transpose(0, 1)
        k, v = (x[0].repeat_interleave(case.groups, dim=0).transpose(0, 1) for x in (case.k, case.v))
        return varlen_attn(q, k, v, ends, ends, length // 4, length // 4, **causal)

    return forward
