"""The exact reverse KL between two language models' next tokens, without the table of all positions' distributions.

Logits of both models exist in chunks of positions, in float32, forward and backward: the backward pass computes each
chunk again. What lies between the passes is one row of each body's output, and four numbers, per position.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tasks.training.head import MIN_ROWS, LanguageHead, add_product, blocks


class HeadDivergence(NamedTuple):
    """What two heads give at M positions, float32 nats."""

    logps: Tensor
    """`(M,)`: log π(target), of the student."""
    reverse_kl: Tensor
    """`(M,)`: KL(π ‖ π_teacher) = Σ_v π(v)·log(π(v)/π_teacher(v))."""


def head_divergence(
    hidden: Tensor, head: LanguageHead, teacher_hidden: Tensor, teacher_head: LanguageHead, targets: Tensor, logits: int
) -> HeadDivergence:
    """Log π(target) and the reverse KL to the teacher at every position, with gradients to the student alone.

    Of heads with more rows than the other one, as padded vocabularies have, the KL is between the distributions over
    the ids that both have, each normalised over these.

        d KL/d z_v = π(v)·(log(π(v)/π_teacher(v)) − KL),   z the student's logits

    hidden `(M, D)`, teacher_hidden `(M, D')`, targets `(M,)` below the rows of the student's head; logits: largest
    number of them in memory, but for `MIN_ROWS` positions of both models.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
    own, other = head._replace(weight=head.weight.to(dtype)), teacher_head._replace(weight=teacher_head.weight.detach())
    rows = max(MIN_ROWS, logits // (own.weight.shape[0] + other.weight.shape[0]))
    with torch.autocast(device, enabled=False):
        return HeadDivergence(*_Divergence.apply(
            hidden.to(dtype), own.weight, own.bias, own, teacher_hidden.detach().to(other.weight.dtype), other,
            targets, rows,
        ))  # fmt: skip


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: LanguageHead, teacher_hidden: Tensor,
        teacher_head: LanguageHead, targets: Tensor, rows: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        parts = []
        for h, t, y in zip(hidden.split(rows), teacher_hidden.split(rows), targets.split(rows), strict=True):
            logits = head.logits(h)
            logps = logits.gather(1, y[:, None])[:, 0]
            norms = _norms(logits, logits.shape[1])
            probabilities, log_ratios, common = _compared(logits, teacher_head.logits(t))
            kl = torch.cat([(p * r).sum(1) for p, r in zip(blocks(probabilities), blocks(log_ratios), strict=True)])
            parts.append((logps - norms, kl, norms, common))
        logps, kl, norms, common = (torch.cat(several) for several in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, bias, teacher_hidden, targets, norms, common, kl)
        ctx.heads, ctx.rows = (head._replace(weight=None, bias=None), teacher_head), rows
        return logps, kl

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, teacher_hidden, targets, norms, common, kl = ctx.saved_tensors
        head, teacher_head = ctx.heads[0]._replace(weight=weight, bias=bias), ctx.heads[1]
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None else None
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, start + ctx.rows)
            logits = head.logits(hidden[part])
            slope = 1 - (logits / head.cap) ** 2 if head.cap else None
            grad = _grad_logits(
                logits, teacher_head.logits(teacher_hidden[part]), norms[part], common[part], kl[part], targets[part],
                grads[0][part], grads[1][part],
            )  # fmt: skip
            if slope is not None:
                grad *= slope
            grad = (grad.mul_(head.scale) if head.scale != 1.0 else grad).to(weight.dtype)
            torch.mm(grad, weight, out=grad_hidden[part])
            if grad_weight is not None:
                add_product(grad_weight, grad.T, hidden[part])
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None


def _norms(logits: Tensor, width: int) -> Tensor:
    """log Σ exp of the first `width` logits of each row, `(m,)`."""
    return torch.cat([block[:, :width].logsumexp(1) for block in blocks(logits)])


def _compared(logits: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """π and log π/π_teacher over the ids that both have, `(m, V)`, and the log of π's norm over these, `(m,)`.

    Overwrites both tables: the first has π, the second the log-ratios.
    """
    width = min(logits.shape[1], others.shape[1])
    common, theirs = _norms(logits, width), _norms(others, width)
    p, ratios = logits[:, :width], others[:, :width]
    for own, other, a, b in zip(
        blocks(p, logits), blocks(ratios, logits), blocks(common, logits), blocks(theirs, logits), strict=True
    ):
        own.sub_(a[:, None])
        other.sub_(b[:, None]).neg_().add_(own)
        own.exp_()
    return p, ratios, common


def _grad_logits(
    logits: Tensor, others: Tensor, norms: Tensor, common: Tensor, kl: Tensor, targets: Tensor, of_logps: Tensor,
    of_kl: Tensor,
) -> Tensor:  # fmt: skip
    """g·(one-hot − π) + g'·π'·(log π'/π_teacher − KL), π' over the common ids, `(m, V)`. Overwrites both tables."""
    width = min(logits.shape[1], others.shape[1])
    beyond = logits[:, width:]
    beyond.sub_(norms[:, None]).exp_().mul_(-of_logps[:, None])
    p, ratios, _ = _compared(logits, others)
    share = of_logps * (common - norms).exp()
    for own, ratio, a, b, g in zip(*(blocks(x, logits) for x in (p, ratios, kl, share, of_kl)), strict=True):
        own.mul_(ratio.sub_(a[:, None]).mul_(g[:, None]).sub_(b[:, None]))
    logits[torch.arange(len(targets), device=targets.device), targets] += of_logps
    return logits
