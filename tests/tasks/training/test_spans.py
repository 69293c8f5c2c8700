"""Attention answer by answer is that of the whole row with a mask, by either kernel."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.kinds import Policy
from tasks.training import body, spans
from tasks.training.batches import MicroBatch, micro_batches
from tasks.training.body import computes_in_spans, hidden_states, inputs_of
from tasks.training.model import open_model
from tasks.training.packing import PackingConfig
from tasks.training.rows import Ragged, Rows, rows_of_ids
from tasks.training.spans import span_attention

CPU = torch.device("cpu")
IN_SPANS = PackingConfig(4096, 32, share=True, span_cost=0.0)


def _rows() -> Rows:
    """Prompts of 5, 3 and 4 tokens with 3, 2 and 1 answers, one of which has a single token."""
    prompts, answers = (
        ([1, 2, 3, 4, 5], [6, 7, 8], [9, 1, 2, 3]),
        ([7, 8, 9, 1], [2, 3], [4, 5, 6], [7], [8, 9, 1], [2, 3]),
    )
    return Rows(_ragged(prompts), _ragged(answers), np.array([0, 3, 5, 6]), ["a", "b", "c"], list("uvwxyz"))


def _ragged(lists: tuple[list[int], ...]) -> Ragged:
    return Ragged(np.concatenate(lists).astype(np.int32), np.cumsum([0, *map(len, lists)]))


def _batch() -> MicroBatch:
    (batch,) = micro_batches(_rows(), np.arange(3), IN_SPANS)
    assert batch.spans is not None
    return batch


def _reference_kernel(
    query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, key_ends: Tensor, longest_query: int,
    longest_keys: int, *, scale: float, window_size: tuple[int, int],
) -> Tensor:  # fmt: skip
    """FlashAttention's contract: `(tokens, heads, d)` each; the causal mask ends at the last key of each sequence."""
    assert window_size == (-1, 0)
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    out = []
    for i in range(len(query_ends) - 1):
        q = query[query_ends[i] : query_ends[i + 1]].transpose(0, 1)
        k, v = (x[key_ends[i] : key_ends[i + 1]].transpose(0, 1) for x in (key, value))
        assert q.shape[1] <= longest_query
        assert k.shape[1] <= longest_keys
        hidden = ~torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(k.shape[1] - q.shape[1])
        out.append(((q @ k.mT * scale).masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(out)


def test_a_span_is_a_prompt_with_its_first_answer_or_a_later_answer_with_its_prompt() -> None:
    """The longest segment comes first: 5 + 3 tokens, answers of 1 and 2 more tokens; then 3 + 0 and 2; then 4 + 1."""
    assert _batch().spans == (
        (0, 8, (0, 0)), (8, 9, (0, 5)), (9, 11, (0, 5)), (11, 14, (11, 11)), (14, 16, (11, 14)), (16, 21, (16, 16)),
    )  # fmt: skip


@pytest.mark.parametrize("kernel", [None, _reference_kernel], ids=["one by one", "at once"])
def test_values_and_gradients_are_those_of_a_mask_over_the_row(
    kernel: Callable[..., Tensor] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of(_batch(), CPU)
    assert inputs.texts is not None
    assert inputs.prompts is not None
    torch.manual_seed(0)
    shapes = ((1, 4, 21, 8), (1, 2, 21, 8), (1, 2, 21, 8))
    tensors = [torch.randn(shape, requires_grad=True) for shape in shapes]
    weights = torch.randn(1, 21, 4, 8)
    monkeypatch.setattr(spans, "_flash_kernel", lambda device, dtype: kernel)

    def result(out: Tensor) -> list[Tensor]:
        return [out, *torch.autograd.grad((out * weights).sum(), tensors)]

    query, key, value = tensors
    mask = body._mask(inputs.texts, inputs.prompts, torch.float32)
    scores = query @ key.repeat_interleave(2, dim=1).mT * 0.3 + mask
    wanted = result((scores.softmax(-1) @ value.repeat_interleave(2, dim=1)).transpose(1, 2))
    module = SimpleNamespace(num_key_value_groups=2)
    found = result(span_attention(module, query, key, value, None, scaling=0.3, spans=inputs.spans)[0])
    for ours, masked in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, masked, rtol=1e-5, atol=1e-5)


def test_a_model_computes_in_spans_what_it_computes_with_a_mask(policy: Policy) -> None:
    model, inputs = open_model(policy, torch.float32), inputs_of(_batch(), CPU)
    masked = hidden_states(model, inputs._replace(spans=None))
    torch.testing.assert_close(hidden_states(model, inputs), masked, rtol=1e-5, atol=1e-5)
    assert model.config._attn_implementation == spans.NAME


def test_a_model_whose_spans_differ_keeps_its_mask(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    real = spans.span_attention
    monkeypatch.setattr(
        spans, "span_attention", lambda *tensors, spans=None, **options: real(*tensors, spans=None, **options)
    )
    spans.register.cache_clear()
    model = open_model(policy, torch.float32)
    assert not computes_in_spans(model)
    assert model.config._attn_implementation == "sdpa"
    monkeypatch.undo()
    spans.register.cache_clear()
    spans.register()


def test_padded_batches_are_masked_as_before_after_the_switch(policy: Policy) -> None:
    """As a reward model's are, and those of generation."""
    model = open_model(policy, torch.float32)
    ids = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    padding = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    before = model(input_ids=ids, attention_mask=padding).logits
    assert computes_in_spans(model)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=padding).logits, before)


def test_rows_without_a_shared_prompt_need_no_repeated_keys() -> None:
    rows = rows_of_ids([[1, 2], [3, 4, 5]], [[6, 7], [8]])
    (batch,) = micro_batches(rows, np.arange(2), IN_SPANS)
    inputs = inputs_of(batch, CPU)
    assert inputs.spans is not None
    assert inputs.spans.keys is None
    assert inputs.spans.query_ends.tolist() == inputs.spans.key_ends.tolist() == [0, 3, 6]
