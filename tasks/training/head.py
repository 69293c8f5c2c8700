"""The head of a language model over answer tokens: log-probabilities of targets without the table of all of them.

Logits exist in chunks of positions, in float32. Where all fit into one chunk, the backward pass uses them again and
computes each product once; otherwise it computes each chunk again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

MIN_ROWS = 512
"""Least positions of a chunk: with fewer, reading the head's weights takes longer than the products."""
_BLOCK = 1 << 19
"""Logits that a CPU reads several times in a row: 2 MB, which stay in its cache."""


class LanguageHead(NamedTuple):
    """How a language model makes logits of what its body gives: weight `(V, D)`, bias `(V,)`, cap (0: none), scale."""

    weight: Tensor
    bias: Tensor | None = None
    cap: float = 0.0
    scale: float = 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """`(m, V)` float32, of hidden `(m, D)`."""
        return logits_of(hidden, self.weight, self.bias, self.cap, self.scale)


class HeadLogps(NamedTuple):
    """What a head gives at M positions, float32 nats."""

    logps: Tensor
    """`(M,)`: log π(target)."""
    log_collisions: Tensor | None
    """`(M,)`: log Σ_v π(v)², of the probability that two draws are the same token; without a gradient."""


def head_logps(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    cap: float,
    scale: float,
    logits: int,
    *,
    collisions: bool = False,
) -> HeadLogps:
    """Log softmax at each target.

    hidden `(M, D)`, weight `(V, D)`, bias `(V,)`, targets `(M,)`; cap, scale: of the model's logits, cap 0 for none;
    logits: largest number of them in memory, but for `MIN_ROWS` positions; collisions: whether they are computed too.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    rows = max(MIN_ROWS, logits // weight.shape[0])
    with torch.autocast(device, enabled=False):
        return HeadLogps(*_Head.apply(hidden.to(dtype), weight.to(dtype), bias, targets, cap, scale, rows, collisions))


class _Head(torch.autograd.Function):
    """log softmax(h·Wᵀ + b) at the target, with cap·tanh(·/cap) in between if the model caps its logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        cap: float,
        scale: float,
        rows: int,
        collisions: bool,
    ) -> tuple[Tensor, Tensor | None]:
        logps, norms, squares, cached = [], [], [], None
        for h, y in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = logits_of(h, weight, bias, cap, scale)
            norm = torch.cat([block.logsumexp(1) for block in blocks(logits)])
            logps.append(logits.gather(1, y[:, None])[:, 0] - norm)
            norms.append(norm)
            if collisions:
                squares.append(_log_sum_of_squares(logits) - 2 * norm)
            cached = logits
        ctx.save_for_backward(hidden, weight, bias, targets, torch.cat(norms))
        # Not a saved tensor: the backward pass overwrites it.
        ctx.cached = cached if len(logps) == 1 else None
        ctx.cap, ctx.scale, ctx.rows = cap, scale, rows
        log_collisions = torch.cat(squares) if collisions else None
        if log_collisions is not None:
            ctx.mark_non_differentiable(log_collisions)
        return torch.cat(logps), log_collisions

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, norms = ctx.saved_tensors
        cached, ctx.cached = ctx.cached, None
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None else None
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, start + ctx.rows)
            h = hidden[part]
            logits = logits_of(h, weight, bias, ctx.cap, ctx.scale) if cached is None else cached
            grad = _grad_logits(logits, norms[part], targets[part], grads[0][part], ctx.cap, ctx.scale).to(weight.dtype)
            del logits
            torch.mm(grad, weight, out=grad_hidden[part])
            if grad_weight is not None:
                add_product(grad_weight, grad.T, h)
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a·b, without a temporary of its size where the types allow."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def logits_of(hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float, scale: float) -> Tensor:
    """Logits, `(m, V)` float32; products are summed in float32 for any input type."""
    if hidden.is_cuda and weight.dtype != torch.float32:
        logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
    else:
        logits = (hidden @ weight.T).float()
    if bias is not None:
        logits += bias
    if scale != 1.0:
        logits *= scale
    return cap * torch.tanh(logits / cap) if cap else logits


def _log_sum_of_squares(logits: Tensor) -> Tensor:
    """log Σ_v exp(z_v)², `(m,)`, in pieces, because twice the logits are another table."""
    pieces = blocks(logits) if logits.device.type == "cpu" else logits.split(MIN_ROWS)
    return torch.cat([(2 * piece).logsumexp(1) for piece in pieces])


def _grad_logits(logits: Tensor, norms: Tensor, targets: Tensor, grad: Tensor, cap: float, scale: float) -> Tensor:
    """g·(one-hot − softmax), through the cap. Overwrites the logits."""
    slope = 1 - (logits / cap) ** 2 if cap else None
    for block, norm, g in zip(blocks(logits), blocks(norms, logits), blocks(grad, logits), strict=True):
        block.sub_(norm[:, None]).exp_().mul_(-g[:, None])
    logits[torch.arange(len(targets), device=targets.device), targets] += grad
    if slope is not None:
        logits *= slope
    return logits.mul_(scale) if scale != 1.0 else logits


def blocks(x: Tensor, logits: Tensor | None = None) -> tuple[Tensor, ...]:
    """Rows in pieces that stay in a CPU's cache; pieces of the same rows as `logits`, if given."""
    logits = x if logits is None else logits
    return x.split(max(1, _BLOCK // logits.shape[1])) if logits.device.type == "cpu" else (x,)
