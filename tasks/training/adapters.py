"""Low-rank layers on a frozen base: made, read from a directory, written into one, added to the base's weights.

peft makes the layers, and is imported where a model gets some, never before. They are float32 whatever the base is.
An adapter's directory holds `adapter.json` and `adapter.safetensors`, whose tensors bear the names of the model's
modules; nothing in it depends on where its base lies.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tasks.calls import ALL_LINEAR, Adapter
from tasks.contract import Chosen, DataError, SpecError
from tasks.kinds import ADAPTER, Model

UNKEYED = {"tasks.contract.Chosen": "in a wiring the adapter is a choice; only Python callers pass a mapping"}
NAME = "default"
"""peft's name of the layers that a model is opened with."""
TENSORS = "adapter.safetensors"
_MATRICES = ("lora_A", "lora_B")
_HEAD = "score"
"""Of a reward model."""


def chosen_adapter(adapter: Chosen | Mapping[str, Any] | str | None) -> Adapter | None:
    """The adapter of a parameter `adapter`; Python callers may write it as a wiring does."""
    if adapter is None:
        return None
    if not isinstance(adapter, Chosen):
        [(name, params)] = [(adapter, {})] if isinstance(adapter, str) else adapter.items()
        adapter = Chosen("adapters", name, params)
    made: Adapter = adapter()
    return Adapter(made.rank, made.alpha, tuple(made.targets))


def stored_adapter(source: Model) -> Adapter | None:
    """The adapter that a model's directory holds; None where it holds a whole model. Raises DataError."""
    content = source.adapter
    if content is None:
        return None
    if content.get("type") != "lora":
        raise DataError(f"{source.path / ADAPTER} has the type {content.get('type')!r}; the only one known is 'lora'")
    return Adapter(int(content["rank"]), float(content["alpha"]), tuple(content["targets"]))


def add_layers(model: Any, adapter: Adapter, seed: int = 0, name: str = NAME, *, learns: bool = True) -> None:
    """Put layers into a model that add nothing yet. Raises SpecError for targets that the model lacks.

    Args:
        seed: draws their A, in the order of their names.
        name: of the layers, where a model has several.
        learns: the layers and the head of a reward model learn, and nothing else does; otherwise what learnt before.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = target_layers(model, adapter.targets)
    learning = {parameter for parameter in model.parameters() if parameter.requires_grad}
    config = LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=targets, lora_dropout=0.0)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")  # several names are wanted
        inject_adapter_in_model(config, model, adapter_name=name)
    noise = torch.Generator().manual_seed(seed)
    learning = {*learning_parameters(model, name).values()} if learns else learning
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in learning)
    for _, layer in sorted(layers_of(model, name).items()):
        a, b = (getattr(layer, matrix)[name].weight for matrix in _MATRICES)
        drawn = torch.rand(a.shape, generator=noise) * 2 - 1
        a.data = (drawn / a.shape[1] ** 0.5).to(a.device)
        b.data = torch.zeros(b.shape, device=b.device)


def read_layers(model: Any, source: Model, name: str = NAME, *, head: bool = False) -> None:
    """Put the layers that `source` holds into its base `model`, and its head where it holds one, which `head` demands.

    Raises DataError where names or shapes differ from the model's.
    """
    adapter = stored_adapter(source)
    if adapter is None:
        raise DataError(f"{source.path} holds no adapter: {ADAPTER} is missing")
    add_layers(model, adapter, name=name)
    fill_layers(model, load_file(source.path / TENSORS), str(source.path), name, head=head)


def fill_layers(model: Any, tensors: Mapping[str, Tensor], where: str, name: str = NAME, *, head: bool = False) -> None:
    """Give a model's layers, and its head, their values. Raises DataError where names or shapes differ."""
    learning = learning_parameters(model, name)
    _check_fit(model, learning, tensors, where, {} if head else _head_of(model))
    for key, tensor in tensors.items():
        learning[key].data = tensor.to(learning[key].device, torch.float32)


def layers_for(model: Any, tensors: Mapping[str, Tensor], rank: int, alpha: float, where: str) -> Adapter:
    """The adapter whose matrices these are, which is put into `model` without their values.

    Raises DataError where the model has no such layers, or layers of other shapes.
    """
    names = sorted({name.rpartition(".lora_")[0] for name in tensors})
    unknown = [name for name in names if name not in linear_layers(model)]
    if unknown or not names:
        what = f"{unknown[0]}, which is no linear layer in the body of" if unknown else "no layer of"
        raise DataError(f"the adapter {where} adapts {what} {type(model).__name__}; there are "
                        f"{_shortened(linear_layers(model), linear_layers(model))}")  # fmt: skip
    add_layers(model, Adapter(rank, alpha, tuple(names)))
    _check_fit(model, learning_parameters(model), tensors, where, {})
    return cast(Adapter, adapter_in(model))


def _check_fit(
    model: Any, learning: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str, optional: Collection[str]
) -> None:
    what = f"the adapter {where} does not fit {type(model).__name__}"
    for key in sorted(learning.keys() - tensors.keys()):
        if key not in optional:
            raise DataError(f"{what}: {key} is missing in it")
    for key, tensor in sorted(tensors.items()):
        if key not in learning:
            raise DataError(f"{what}: it has {key}, and the model has no such layer")
        if learning[key].shape != tensor.shape:
            raise DataError(f"{what}: {key} is {tuple(tensor.shape)}, and the model's layer takes "
                            f"{tuple(learning[key].shape)}")  # fmt: skip


def leave_casts_to_autocast(model: nn.Module) -> None:
    """Layers do not make what they read float32, which autocast would make bfloat16 again: the same bits in less time.

    For models that compute under autocast only.
    """
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.cast_input_dtype_enabled = False


def layers_of(model: nn.Module, name: str = NAME) -> dict[str, Any]:
    """The adapted linear layers of a model, by the names that they had before; empty where it has none."""
    return {n: m for n, m in model.named_modules() if name in getattr(m, "lora_A", ())}


def learning_parameters(model: Any, name: str = NAME) -> dict[str, nn.Parameter]:
    """What an adapter consists of: its matrices, and the head of a reward model, by their names in the file."""
    matrices = {
        f"{layer}.{matrix}.weight": getattr(module, matrix)[name].weight
        for layer, module in layers_of(model, name).items() for matrix in _MATRICES
    }  # fmt: skip
    return matrices | _head_of(model)


def in_adapter(name: str) -> bool:
    """Whether a module or parameter, by its name in a model, is one of an adapter's, or a reward model's head."""
    parts = name.split(".")
    return parts[0] == _HEAD or any(part in _MATRICES for part in parts)


def _head_of(model: Any) -> dict[str, nn.Parameter]:
    head = getattr(model, _HEAD, None)
    return {f"{_HEAD}.{n}": p for n, p in head.named_parameters()} if isinstance(head, nn.Linear) else {}


def adapter_in(model: Any, name: str = NAME) -> Adapter | None:
    """The adapter that a model has, its targets as short as they can be; None where it has none."""
    layers = layers_of(model, name)
    if not layers:
        return None
    first = next(iter(layers.values()))
    return Adapter(first.r[name], float(first.lora_alpha[name]), tuple(_shortened(layers, linear_layers(model))))


def target_layers(model: Any, targets: Sequence[str]) -> list[str]:
    """Names of the linear layers that targets mean. Raises SpecError for a target that means none."""
    there = linear_layers(model)
    found: set[str] = set()
    for target in targets:
        named = [n for n in there if target == ALL_LINEAR or n == target or n.endswith(f".{target}")]
        if not named:
            raise SpecError(
                f"adapter.targets: {type(model).__name__} has no linear layer '{target}' in its body; it has "
                f"{_shortened(there, there)}, and `{ALL_LINEAR}` means all of them"
            )
        found |= {*named}
    return [n for n in there if n in found]


def linear_layers(model: Any) -> list[str]:
    """Names of the linear layers of a model's body, adapted or not, in their order."""
    from transformers.pytorch_utils import Conv1D

    body = model.base_model
    prefix = "" if body is model else f"{model.base_model_prefix}."
    kinds = (nn.Linear, Conv1D)
    return [
        f"{prefix}{name}" for name, module in body.named_modules()
        if (isinstance(module, kinds) or hasattr(module, "lora_A")) and not _inside(name)
    ]  # fmt: skip


def save_adapter(model: Any, base: Model, directory: Path, name: str = NAME) -> None:
    """Write the layers of a model, and the head of a reward model, into `directory`."""
    tensors = {n: p.detach().float().cpu().contiguous() for n, p in learning_parameters(model, name).items()}
    write_adapter(directory, cast(Adapter, adapter_in(model, name)), tensors, base)


def write_adapter(directory: Path, adapter: Adapter, tensors: Mapping[str, Tensor], base: Model) -> None:
    """Write `adapter.json` and its tensors."""
    save_file(dict(tensors), directory / TENSORS)
    content = {
        "type": "lora", "rank": adapter.rank, "alpha": adapter.alpha, "targets": list(adapter.targets),
        "base": base.digest,
    }  # fmt: skip
    (directory / ADAPTER).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def merge_layers(model: Any) -> None:
    """Add what the layers add to the base's weights, in its type, and take the layers out."""
    for layer in layers_of(model).values():
        layer.merge()
    remove_layers(model)


def remove_layers(model: Any) -> None:
    """Take the layers out, so that the model is its base again."""
    for name, layer in layers_of(model).items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.base_layer)
    if hasattr(model, "peft_config"):
        del model.peft_config


def adapted_layers(model: nn.Module) -> list[Any]:
    """The linear layers of a model that have an adapter of any name."""
    return [module for module in model.modules() if hasattr(module, "lora_A")]


def use_layers(layers: Iterable[Any], name: str | None) -> None:
    """From now on adapted layers compute with their adapter of this name, where they have it; None: with none.

    peft's own switch would also decide which of them learn.
    """
    for layer in layers:
        layer._active_adapter, layer._disable_adapters = name or layer._active_adapter, name is None


def _inside(name: str) -> bool:
    """Whether a module lies inside an adapted layer."""
    return any(part in (*_MATRICES, "base_layer") for part in name.split("."))


def _shortened(names: Collection[str], there: Collection[str]) -> list[str]:
    """Last parts of names where all layers with that part are among them, else whole names; sorted."""
    lasts = {name.rpartition(".")[2] for name in names}
    whole = {last for last in lasts if all(n in names for n in there if n.rpartition(".")[2] == last)}
    return sorted({*whole, *(n for n in names if n.rpartition(".")[2] not in whole)})
