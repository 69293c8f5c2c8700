"""Log-probabilities of answers: the model's body over whole segments, its head over answer tokens only.

The head runs over chunks of positions in float32, so the `(M, V)` table of all log-probabilities never exists;
its backward pass computes each chunk again.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from tasks.contract import SpecError
from tasks.training.batches import MicroBatch

CHUNK = 1 << 23
"""Maximum number of logits in memory; if all fit, they are cached for the backward pass."""


class Inputs(NamedTuple):
    """A micro-batch as tensors on the model's device; fields as in `MicroBatch`."""

    ids: Tensor
    positions: Tensor | None
    texts: Tensor | None
    prompts: Tensor | None
    sources: Tensor
    targets: Tensor
    lengths: Tensor


def inputs_of(batch: MicroBatch, device: torch.device) -> Inputs:
    arrays = batch[1:]
    return Inputs(*(None if a is None else torch.from_numpy(a).to(device) for a in arrays))


def hidden_states(model: Any, inputs: Inputs) -> Tensor:
    """The body's output for every token, `(L, T, D)`; an answer attends to its prompt and itself only."""
    mask = None
    if inputs.texts is not None and inputs.prompts is not None:
        device = model.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype
        mask = _mask(inputs.texts, inputs.prompts, dtype)
    out = model.base_model(input_ids=inputs.ids, attention_mask=mask, position_ids=inputs.positions, use_cache=False)
    return cast(Tensor, out.last_hidden_state)


class AnswerLogps(nn.Module):
    """A causal language model that returns the summed log-probability of each answer of a micro-batch."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._check_head()

    def forward(self, inputs: Inputs) -> Tensor:
        """`(S,)` float64, nats: answers in the order of the micro-batch's rows."""
        token_logps = self.token_logps(inputs)
        answer = torch.repeat_interleave(torch.arange(len(inputs.lengths), device=token_logps.device), inputs.lengths)
        first = inputs.lengths.cumsum(0) - inputs.lengths
        place = torch.arange(len(answer), device=token_logps.device) - first[answer]
        # Summed as a padded table: a scattered sum has no fixed order on a GPU.
        table = token_logps.new_zeros(len(inputs.lengths), int(inputs.lengths.max()), dtype=torch.float64)
        return table.index_put((answer, place), token_logps.double()).sum(dim=1)

    def token_logps(self, inputs: Inputs) -> Tensor:
        """`(M,)` float32, nats."""
        hidden = hidden_states(self.model, inputs).flatten(0, 1)
        # `embedding` and not an index: its backward sums repeated rows in a fixed order.
        picked = nn.functional.embedding(inputs.sources, hidden)
        head = self.model.get_output_embeddings()
        return _head_logps(picked, head.weight, head.bias, inputs.targets, self._cap(), self._scale())

    def _cap(self) -> float:
        return float(getattr(self.model.config, "final_logit_softcapping", None) or 0.0)

    def _scale(self) -> float:
        config = self.model.config
        return float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )

    def _check_head(self) -> None:
        """Compare once with the model's own logits: raises SpecError for an architecture with an unknown head."""
        device = self.model.device
        ids = torch.arange(1, 9, device=device)[None] % self.model.config.get_text_config().vocab_size
        read, targets = ids[:, :-1], ids[0, 1:]
        length = torch.tensor([7], device=device)
        with torch.no_grad():
            own = self.model(input_ids=read, use_cache=False).logits[0].float().log_softmax(-1)
            ours = self.token_logps(Inputs(read, None, None, None, torch.arange(7, device=device), targets, length))
        near = 1e-3 if self.model.dtype == torch.float32 else 5e-2
        if not torch.allclose(own.gather(1, targets[:, None])[:, 0], ours, atol=near):
            raise SpecError(
                f"{type(self.model).__name__} computes its logits in a way that `tasks/training/logps.py` does not "
                "support: add it to AnswerLogps"
            )


def _mask(texts: Tensor, prompts: Tensor, dtype: torch.dtype) -> Tensor:
    """`(L, 1, T, T)`: 0 where a token attends (to earlier ones of its text or its prompt), else the minimum."""
    same = texts[:, :, None] == texts[:, None, :]
    prompt = prompts[:, :, None] == texts[:, None, :]
    visible = (same | prompt).tril()
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def _head_logps(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, cap: float, scale: float
) -> Tensor:
    dtype = (
        torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else weight.dtype
    )
    with torch.autocast(hidden.device.type, enabled=False):
        return cast(Tensor, _Head.apply(hidden.to(dtype), weight.to(dtype), bias, targets, cap, scale))


class _Head(torch.autograd.Function):
    """log softmax(h·Wᵀ + b) at the target, with cap·tanh(·/cap) in between if the model caps its logits."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, cap: float, scale: float
    ) -> Tensor:
        """hidden `(M, D)`, weight `(V, D)`, targets `(M,)` → `(M,)` float32."""
        rows = max(1, CHUNK // weight.shape[0])
        logps, norms, cached = [], [], None
        for h, y in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = _logits(h, weight, bias, cap, scale)
            norm = logits.logsumexp(1)
            logps.append(logits.gather(1, y[:, None])[:, 0] - norm)
            norms.append(norm)
            cached = logits
        ctx.save_for_backward(hidden, weight, bias, targets, torch.cat(norms))
        # Not a saved tensor: the backward pass overwrites it.
        ctx.cached = cached if len(logps) == 1 else None
        ctx.cap, ctx.scale, ctx.rows = cap, scale, rows
        return torch.cat(logps)

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
            logits = _logits(h, weight, bias, ctx.cap, ctx.scale) if cached is None else cached
            grad = _grad_logits(logits, norms[part], targets[part], grads[0][part], ctx.cap, ctx.scale).to(weight.dtype)
            del logits
            torch.mm(grad, weight, out=grad_hidden[part])
            if grad_weight is not None:
                _add_product(grad_weight, grad.T, h)
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), grad_bias, None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a·b, without a temporary of its size where the types allow."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float, scale: float) -> Tensor:
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


def _grad_logits(logits: Tensor, norms: Tensor, targets: Tensor, grad: Tensor, cap: float, scale: float) -> Tensor:
    """g·(one-hot − softmax), through the cap. Overwrites the logits."""
    slope = 1 - (logits / cap) ** 2 if cap else None
    out = logits.sub_(norms[:, None]).exp_().mul_(-grad[:, None])
    out[torch.arange(len(targets), device=targets.device), targets] += grad
    if slope is not None:
        out *= slope
    return out.mul_(scale) if scale != 1.0 else out
