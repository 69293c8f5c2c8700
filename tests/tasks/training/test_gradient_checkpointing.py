"""Gradient checkpointing changes memory, never a bit of the result."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tasks.contract import SpecError
from tasks.kinds import Policy
from tasks.training.batches import micro_batches
from tasks.training.body import inputs_of
from tasks.training.gradient_checkpointing import is_wanted, use_gradient_checkpointing
from tasks.training.logps import AnswerLogps
from tasks.training.memory import StateBytes, TrainingSetup
from tasks.training.model import open_model
from tasks.training.packing import PackingConfig
from tasks.training.rows import rows_of
from tests.devices import H100
from tests.flat import fit
from tests.tasks.training.tables import SFT, demonstrations, preferences, tokenized
from tests.workspace import Workspace

PACKINGS = {"with a mask": PackingConfig(4096, 32, True), "in spans": PackingConfig(4096, 32, True, span_cost=0.0)}


def _bytes_and_gradients(
    policy: Policy, folder: Path, packing: PackingConfig, *, again: bool
) -> tuple[int, list[torch.Tensor]]:
    """Bytes that one forward pass keeps, weights left out, and the gradient of every weight."""
    model = open_model(policy, torch.float32)
    if again:
        use_gradient_checkpointing(model)
    rows = rows_of(tokenized(preferences(8), policy, folder), policy)
    (batch,) = micro_batches(rows, np.arange(8), packing)
    scorer = AnswerLogps(model)
    scorer(inputs_of(batch, torch.device("cpu"))).sum().backward()
    model.zero_grad()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in weights:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        total = scorer(inputs_of(batch, torch.device("cpu"))).sum()
    total.backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None for g in gradients)
    return sum(kept.values()), gradients


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS.keys())
def test_gradients_are_equal_to_the_bit_and_take_less_memory(
    packing: PackingConfig, policy: Policy, tmp_path: Path
) -> None:
    plain, wanted = _bytes_and_gradients(policy, tmp_path / "plain", packing, again=False)
    less, found = _bytes_and_gradients(policy, tmp_path / "again", packing, again=True)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert less < plain / 2


def test_the_layers_stay_in_evaluation_mode(policy: Policy) -> None:
    model = open_model(policy, torch.float32)
    use_gradient_checkpointing(model)
    assert not any(module.training for module in model.modules())


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(SpecError, match="gradient_checkpointing: off"):
        use_gradient_checkpointing(torch.nn.Linear(2, 2))


def _llama(width: int, inner: int, layers: int, heads: int, keys: int, vocabulary: int) -> Any:
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=keys, vocab_size=vocabulary, tie_word_embeddings=True,
    )  # fmt: skip
    return SimpleNamespace(config=config)


def test_auto_uses_it_where_a_training_does_not_fit_otherwise() -> None:
    """Of an H100's 85 GB half a billion parameters take 23; 3.7 billion in bfloat16, with AdamW in eight bits, take 37
    and 4 for the head, and 40 for the activations of 8,192 tokens."""
    setup = TrainingSetup(8192, half=True, logits=1 << 28)
    small, large = _llama(896, 4864, 24, 14, 2, 151_936), _llama(2560, 9728, 36, 32, 8, 151_936)
    lean = replace(setup, state=StateBytes(device=2), half_weights=True)
    assert not is_wanted("auto", small, setup, H100)
    assert not is_wanted("auto", large, lean, H100)
    assert is_wanted("auto", large, replace(lean, tokens=16384), H100)
    assert is_wanted("auto", small, setup, replace(H100, memory_bytes=16 * 2**30))
    assert [is_wanted(setting, small, setup, H100) for setting in ("on", "off")] == [True, False]


def test_a_fit_gives_equal_weights_with_and_without(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(demonstrations(12), policy, tmp_path)
    weights = []
    for setting in ("on", "off"):
        trained = fit(policy, data, Workspace(tmp_path / setting), loss=SFT, lr=1e-3, gradient_checkpointing=setting)
        weights.append((trained.path / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
