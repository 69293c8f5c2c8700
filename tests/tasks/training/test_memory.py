"""Memory computed from config.json: parameter counts of published models, and the parts of a training, in GiB."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.calls import Adapter, StateBytes
from tasks.training.adapters import add_layers
from tasks.training.gradient_checkpointing import use_gradient_checkpointing
from tasks.training.memory import (
    ModelShape,
    TrainingSetup,
    activation_bytes,
    host_memory,
    scoring_memory,
    training_memory,
)
from tasks.training.model import halve_products, halve_weights
from tests.configs import CONFIGS
from tests.devices import H100

GIB = 2**30
GPU = TrainingSetup(8192, half=True, logits=1 << 23)
"""8,192 tokens a pass, float32 weights under bfloat16 autocast, AdamW."""


def shape_of(name: str) -> ModelShape:
    shape = ModelShape.of(CONFIGS[name])
    assert shape
    return shape


def _gib(parts: dict[str, float], *left_out: str) -> float:
    return sum(size for name, size in parts.items() if name not in left_out) / GIB


@pytest.mark.parametrize(("name", "parameters"), [("0.5B", 0.494e9), ("1.5B", 1.544e9), ("8B", 8.030e9)])
def test_parameters_are_counted_from_the_configuration(name: str, parameters: float) -> None:
    """As the models' cards count them."""
    assert shape_of(name).parameters == pytest.approx(parameters, rel=1e-3)


def test_a_configuration_of_another_layout_is_read_and_one_without_sizes_is_not() -> None:
    gpt2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
    shape = ModelShape.of(gpt2)
    assert shape
    assert shape.parameters == pytest.approx(124.4e6, rel=0.01)  # its 0.8M positions are left out
    assert ModelShape.of({"text_config": CONFIGS["8B"]}) == shape_of("8B")
    assert ModelShape.of({"model_type": "mamba"}) is None


def test_experts_are_all_in_memory_and_few_of_them_in_the_activations() -> None:
    """Mixtral 8 × 7B: 46.7B parameters, two experts a token."""
    mixtral = ModelShape.of({**CONFIGS["8B"], "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2})
    assert mixtral
    assert mixtral.parameters == pytest.approx(46.7e9, rel=0.01)
    dense = replace(mixtral, experts=1, active=1)
    assert activation_bytes(mixtral, GPU) - activation_bytes(dense, GPU) == 8192 * 32 * 4 * 2 * 14336


@pytest.mark.parametrize(("name", "expected"), [("0.5B", 9.5), ("1.5B", 28), ("8B", 140)])
def test_full_training_takes_18_bytes_a_parameter_and_the_head(name: str, expected: float) -> None:
    assert _gib(training_memory(shape_of(name), GPU), "activations") == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("name", "plain", "checkpointed"), [("0.5B", 12, 1.2), ("1.5B", 25, 2.2), ("8B", 59, 5.9)])
def test_activations_are_those_of_all_layers_or_of_one_and_the_inputs_of_all(
    name: str, plain: float, checkpointed: float
) -> None:
    """Measured: 74, 77 and 59 bytes per channel, token and layer."""
    shape = shape_of(name)
    assert activation_bytes(shape, GPU) / GIB == pytest.approx(plain, rel=0.15)
    assert activation_bytes(shape, replace(GPU, checkpointed=True)) / GIB == pytest.approx(checkpointed, rel=0.15)


@pytest.mark.parametrize(("half", "half_weights"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("sizes", "rank"), [
    ((112, 608, 14, 2), 0), ((512, 1792, 4, 1), 0), ((256, 688, 8, 8), 0), ((112, 608, 14, 2), 4),
    pytest.param((256, 688, 8, 8), 4, marks=pytest.mark.slow),
])  # fmt: skip
def test_what_a_layer_keeps_is_what_a_forward_pass_saves(
    sizes: tuple[int, int, int, int], half: bool, half_weights: bool, rank: int
) -> None:
    """Shapes like those of 0.5B, 8B and the benchmark; the difference between four layers and two."""
    width, inner, heads, keys = sizes
    saved, tokens = [], 128
    for layers in (2, 4):
        config = LlamaConfig(
            vocab_size=256, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=keys,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        if rank:
            add_layers(model, Adapter(rank, 8.0, ("all-linear",)))
        if half_weights:
            halve_weights(model)
        elif rank and half:
            halve_products(model)
        saved.append(_saved_bytes(model, tokens, half))
    shape = ModelShape.of(config.to_dict())
    assert shape
    weights = sum(p.numel() for p in model.model.layers[:2].parameters() if p.ndim == 2 and p.requires_grad)
    copies = 2 * weights if half and not (half_weights and not rank) else 0
    expected = activation_bytes(
        replace(shape, layers=2), TrainingSetup(tokens, half, logits=0, half_weights=half_weights, rank=rank)
    )
    assert saved[1] - saved[0] - copies == pytest.approx(expected, rel=0.05)


def test_with_gradient_checkpointing_a_layer_keeps_its_input_alone() -> None:
    """128 tokens of 64 channels in float32, of two layers more."""
    saved = []
    for layers in (2, 4):
        config = LlamaConfig(
            vocab_size=256, hidden_size=64, intermediate_size=160, num_hidden_layers=layers, num_attention_heads=4,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        use_gradient_checkpointing(model)
        saved.append(_saved_bytes(model, 128, half=False))
    assert saved[1] - saved[0] == pytest.approx(2 * 128 * 64 * 4, rel=0.05)


def _saved_bytes(model: Any, tokens: int, half: bool) -> int:
    """Bytes of the tensors that the body's forward pass keeps for its backward pass, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.arange(tokens)[None]
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model.model(input_ids=ids, use_cache=False)
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in parameters)


@pytest.mark.parametrize(
    ("name", "expected"), [("0.5B", (4.5, 2.6, 1.7)), ("1.5B", (13, 7, 4)), ("8B", (63, 33, 18))]
)  # fmt: skip
def test_shards_divide_weights_gradients_and_state_and_leave_the_head(name: str, expected: tuple[float, ...]) -> None:
    shape = shape_of(name)
    found = [_gib(training_memory(shape, replace(GPU, shards=n)), "activations", "head") for n in (2, 4, 8)]
    assert found == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("name", "expected"), [("0.5B", 2.5), ("1.5B", 5.8), ("8B", 23)])
def test_adapters_need_the_base_in_half_and_the_inputs_of_the_layers(name: str, expected: float) -> None:
    setup = replace(GPU, rank=16, checkpointed=True)
    assert _gib(training_memory(shape_of(name), setup)) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_an_adapter_has_as_many_weights_as_are_counted(family: str) -> None:
    """Experts are parts of one tensor, and have none."""
    import transformers

    name = family.capitalize()
    config = getattr(transformers, f"{name}Config")(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    add_layers(model, Adapter(4, 8.0, ("all-linear",)))
    shape = ModelShape.of(config.to_dict())
    assert shape
    assert shape.lora_parameters(4) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_an_adapter_of_8b_stays_far_below_80_gb_with_gradient_checkpointing() -> None:
    """Its base takes 2 bytes a weight, the embedding 4; without checkpointing it would be 78e9 of 85e9 bytes."""
    shape, setup = shape_of("8B"), replace(GPU, rank=16, logits=H100.head_logits)
    parts = training_memory(shape, replace(setup, checkpointed=True))
    assert sum(parts.values()) < 30e9 < 0.4 * H100.memory_bytes
    assert parts["weights"] == 2 * (8030261248 + 128256 * 4096) + 4 * shape.lora_parameters(16)
    assert parts["optimizer"] == 8 * shape.lora_parameters(16)


def test_a_frozen_base_is_as_large_as_its_types() -> None:
    """In float32; all of it in bfloat16; the adapter is float32 either way."""
    shape = shape_of("0.5B")
    adapter = 4 * shape.lora_parameters(8)
    setup = replace(GPU, rank=8)
    assert training_memory(shape, replace(setup, half=False))["weights"] == 4 * shape.parameters + adapter
    assert training_memory(shape, replace(setup, half_weights=True))["weights"] == 2 * shape.parameters + adapter
    scored = scoring_memory(shape, 8192, half=True, logits=1, whole=True, rank=8)
    assert scored["weights"] == 2 * shape.parameters + adapter


@pytest.mark.parametrize(("name", "float32", "bfloat16"), [("0.5B", 1.8, 0.9), ("1.5B", 5.8, 2.9), ("8B", 30, 15)])
def test_a_frozen_model_needs_its_weights(name: str, float32: float, bfloat16: float) -> None:
    found = [
        scoring_memory(shape_of(name), 8192, half=half, logits=1, whole=True)["weights"] / GIB for half in (False, True)
    ]
    assert found == pytest.approx((float32, bfloat16), rel=0.15)


def test_optimizers_change_what_a_parameter_takes() -> None:
    """Of 8B, without head and activations: 18 bytes; with bfloat16 weights 2 + 2 + 4 + 8; in eight bits 2 + 2 + 4 + 2;
    on the host 2 + 2, and there 4 of weights, 4 of gradients, 8 of state."""
    shape = shape_of("8B")

    def per_parameter(**changes: Any) -> float:
        parts = training_memory(shape, replace(GPU, **changes))
        return _gib(parts, "activations", "head") * GIB / shape.parameters

    assert per_parameter() == pytest.approx(18, abs=0.2)
    assert per_parameter(half_weights=True) == 16
    assert per_parameter(half_weights=True, state=StateBytes(device=2)) == 10
    offloaded = replace(GPU, half_weights=True, state=StateBytes(host=8))
    assert per_parameter(half_weights=True, state=StateBytes(host=8)) == 4
    assert host_memory(shape, offloaded) == 16 * shape.parameters
    assert host_memory(shape, GPU) == 0
