"""Gradient checkpointing: a layer keeps its input alone and computes its activations again in the backward pass.

Results are equal to the bit, because a layer computes the same both times: models train without dropout.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from tasks.contract import SpecError
from tasks.training.device import Device
from tasks.training.memory import ModelShape, TrainingSetup, checkpointing_needed


def is_wanted(setting: str, model: Any, setup: TrainingSetup, device: Device) -> bool:
    """Whether to use it; setting `auto`: where a training does not fit on the device without it."""
    shape = ModelShape.of(model.config.to_dict()) if setting == "auto" else None
    return setting == "on" or (shape is not None and checkpointing_needed(shape, setup, device.memory_bytes))


def use_gradient_checkpointing(model: Any) -> None:
    """From now on the layers of a transformers model keep their inputs alone. Raises SpecError where it has none.

    transformers' own switch works in training mode only, which would turn dropout on.
    """
    layers = decoder_layers(model)
    if not layers:
        raise SpecError(
            f"{type(model).__name__} has no layers that transformers can checkpoint: set gradient_checkpointing: off"
        )
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def decoder_layers(model: Any) -> list[Any]:
    """The layers of a transformers model, in its own order; empty where transformers does not mark them."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
