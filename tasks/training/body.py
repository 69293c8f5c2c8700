"""A micro-batch as tensors, and its way through a model's body: everything but the head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from tasks.training.batches import MicroBatch, micro_batches
from tasks.training.packing import PackingConfig
from tasks.training.rows import Ints, rows_of_ids
from tasks.training.spans import NAME, SpanInputs, register, span_inputs

_NEAR = {torch.float32: 1e-3}
"""Tolerance for rounding between two ways to compute attention, relative to the largest hidden state."""
_NEAR_HALF = 0.1
_in_spans: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a model's attention can be computed in spans."""


class Inputs(NamedTuple):
    """A micro-batch as tensors on the model's device; the first fields as in `MicroBatch`."""

    ids: Tensor
    positions: Tensor | None
    texts: Tensor | None
    prompts: Tensor | None
    spans: SpanInputs | None
    sources: Tensor
    targets: Tensor
    lengths: Tensor
    answers: Tensor
    """`(M,)`: number of the answer that each target belongs to."""
    places: Tensor
    """`(M,)`: number of each target in its answer."""
    longest: int
    """Tokens of the longest answer."""
    common: Tensor | None = None
    """As in `MicroBatch`."""


def inputs_of(batch: MicroBatch, device: torch.device) -> Inputs:
    """Nothing here waits for a GPU."""
    send = sender(device)
    positions, texts, prompts = (None if a is None else send(a) for a in (batch.positions, batch.texts, batch.prompts))
    spans = None if batch.spans is None else span_inputs(batch.spans, send)
    answers = np.repeat(np.arange(len(batch.lengths)), batch.lengths)
    first = np.cumsum(batch.lengths) - batch.lengths
    places = np.arange(len(answers)) - first[answers]
    return Inputs(
        send(batch.ids), positions, texts, prompts, spans, send(batch.sources), send(batch.targets),
        send(batch.lengths), send(answers), send(places), int(batch.lengths.max()),
        None if batch.common is None else send(batch.common),
    )  # fmt: skip


def sender(device: torch.device) -> Callable[[Ints], Tensor]:
    """Makes arrays tensors on the device, without waiting for it."""
    if device.type == "cpu":
        return torch.from_numpy
    return lambda array: torch.from_numpy(array).pin_memory().to(device, non_blocking=True)


def hidden_states(model: Any, inputs: Inputs) -> Tensor:
    """The body's output for every token, `(L, T, D)`; an answer attends to its prompt and itself only."""
    if inputs.spans is not None and computes_in_spans(model):
        return _forward_in_spans(model, inputs)
    if inputs.texts is None or inputs.prompts is None:
        return _forward(model, inputs, None)
    return _forward(model, inputs, _mask(inputs.texts, inputs.prompts, computed_dtype(model)))


def computes_in_spans(model: Any) -> bool:
    """Whether the model can; the first call switches it over and compares both ways on a few tokens."""
    if model not in _in_spans:
        _in_spans[model] = _switched_over(model)
    return _in_spans[model]


def _switched_over(model: Any) -> bool:
    if model.config._attn_implementation != "sdpa" or not model._can_set_attn_implementation():
        return False
    register()
    model.set_attn_implementation(NAME)
    try:
        agrees = _agrees(model)
    except (TypeError, RuntimeError):  # a body that does not pass `spans` on, a kernel that does not take its heads
        agrees = False
    if not agrees:
        model.set_attn_implementation("sdpa")
    return agrees


def _agrees(model: Any) -> bool:
    """Compare spans with a mask over the whole row."""
    inputs = probe_inputs(model, model.device)
    assert inputs.texts is not None
    assert inputs.prompts is not None
    mask = _mask(inputs.texts, inputs.prompts, computed_dtype(model))
    with torch.no_grad():
        masked = _forward(model, inputs, mask)
        spanned = _forward_in_spans(model, inputs)
    near = _NEAR.get(computed_dtype(model), _NEAR_HALF)
    return bool((masked - spanned).abs().max() <= near * masked.abs().max())


def probe_inputs(model: Any, device: torch.device) -> Inputs:
    """A small micro-batch whose attention may be computed in spans: two answers to one prompt, and one to another."""
    size = model.config.get_text_config().vocab_size
    rows = rows_of_ids([[1, 2, 3], [1, 2, 3], [4, 5]], [[6, 7, 8], [9, 1], [2, 3, 4]])
    for ids in (rows.prompts.values, rows.answers.values):
        ids[:] %= size
    (batch,) = micro_batches(rows, np.arange(3), PackingConfig(64, 1, share=True, span_cost=0.0))
    return inputs_of(batch, device)


def _forward_in_spans(model: Any, inputs: Inputs) -> Tensor:
    # transformers leaves a mask of four dimensions as it is; without one it waits for the GPU to look at positions.
    return _forward(model, inputs, inputs.ids.new_zeros(1, 1, 1, 1), spans=inputs.spans)


def _forward(model: Any, inputs: Inputs, mask: Tensor | None, **options: Any) -> Tensor:
    out = model.base_model(
        input_ids=inputs.ids, attention_mask=mask, position_ids=inputs.positions, use_cache=False, **options
    )
    return cast(Tensor, out.last_hidden_state)


def computed_dtype(model: Any) -> torch.dtype:
    """Type of the model's products: that of autocast where it is on, else of the weights."""
    device = model.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype
    return cast(torch.dtype, dtype)


def _mask(texts: Tensor, prompts: Tensor, dtype: torch.dtype) -> Tensor:
    """`(L, 1, T, T)`: 0 where a token attends (to earlier ones of its text or its prompt), else the minimum."""
    same = texts[:, :, None] == texts[:, None, :]
    prompt = prompts[:, :, None] == texts[:, None, :]
    visible = (same | prompt).tril()
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
