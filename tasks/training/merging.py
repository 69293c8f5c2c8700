"""One model of several: their weights are averaged, or rotated into each other, in float32.

At most two models are in memory at once, three where two are rotated about another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.contract import DataError
from tasks.kinds import Model, RewardModel
from tasks.template import template_digest
from tasks.training.adapters import merge_layers
from tasks.training.heads import attributes_of
from tasks.training.model import open_model
from tasks.training.reward import open_reward_model

PARALLEL = 1e-4
"""Sine of the angle between two tensors below which they count as parallel."""


def open_merged(source: Model) -> Any:
    """The model in float32, on the CPU; an adapter is added to its base."""
    opening: Any = open_reward_model if isinstance(source, RewardModel) else open_model
    model = opening(source, torch.float32)
    if source.adapter is not None:
        merge_layers(model)
    return model


def check_tokenizers(sources: Sequence[Model]) -> None:
    """Raise DataError for two models of which one has another tokenizer or chat template."""
    first, wanted = sources[0], template_digest(sources[0])
    for other in sources[1:]:
        if template_digest(other) != wanted:
            raise DataError(f"{first.path} and {other.path} have different tokenizers, chat templates or stop tokens: "
                            "equal rows of their weights do not mean the same token")  # fmt: skip


def check_outputs(sources: Sequence[Model]) -> None:
    """Raise DataError for reward models whose outputs estimate other attributes, or the same in other units."""
    first = sources[0]
    for other in sources[1:] if isinstance(first, RewardModel) else ():
        if attributes_of(other.path) != attributes_of(first.path):
            raise DataError(f"{first.path} and {other.path} have outputs of other names, means or standard deviations, "
                            "so their weights have no mean: use `ensemble`")  # fmt: skip


def average(opening: Callable[[Model], Any], sources: Sequence[Model], shares: Sequence[float]) -> Any:
    """The model whose weights are Σ shareᵢ·θᵢ, as a running mean: equal weights, and a share of 1, change no bit.

    The order is by falling share, so that no partial sum of the shares is 0.
    """
    order = sorted(range(len(sources)), key=lambda i: -shares[i])
    merged, total = opening(sources[order[0]]), shares[order[0]]
    own = weights_of(merged)
    for i in order[1:]:
        total += shares[i]
        others = weights_like(own, opening(sources[i]), sources[order[0]], sources[i])
        for name, weight in own.items():
            weight.lerp_(others[name], shares[i] / total)
    return merged


def rotate(
    opening: Callable[[Model], Any], sources: Sequence[Model], shares: Sequence[float], base: Model | None
) -> Any:
    """The model whose tensors are the spherical interpolation of those of two models, each with an angle of its own.

        θ = θ₀ + sin((1 − λ)Ω)/sin Ω·δ₁ + sin(λΩ)/sin Ω·δ₂,   δᵢ = θᵢ − θ₀,   Ω the angle between δ₁ and δ₂

    λ is the second share. θ₀ is the base, or 0 without one.

    Source: Ramé et al., WARP, arXiv 2406.16768, section 3.2, which rotates layer by layer.
    """
    first, second = sources
    merged = opening(first)
    own = weights_of(merged)
    others = weights_like(own, opening(second), first, second)
    origins = {} if base is None else weights_like(own, opening(base), first, base)
    for name, weight in own.items():
        origin = origins.get(name, torch.zeros(()))
        weight.copy_(origin + slerp(weight - origin, others[name] - origin, shares[1]))
    return merged


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """The tensor between two of one shape on the arc from one to the other; share: of the second, in [0, 1].

    Nearly parallel or opposite tensors have no arc of their own, and are averaged.

    Source: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
    """
    one, two = first.double().flatten(), second.double().flatten()
    norms = one.norm() * two.norm()
    angle = math.acos(float((one @ two / norms).clamp(-1, 1))) if norms > 0 else 0.0
    if math.sin(angle) < PARALLEL:
        return torch.lerp(first, second, share)
    a, b = (math.sin(part * angle) / math.sin(angle) for part in (1 - share, share))
    return a * first + b * second


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters by name, those that it uses twice once; they may be written to."""
    return {name: parameter.data for name, parameter in model.named_parameters()}


def weights_like(own: Mapping[str, Tensor], other: nn.Module, of: Model, than: Model) -> dict[str, Tensor]:
    """The parameters of another model. Raises DataError where it lacks one, has one more or has another shape.

    of, than: where the models come from, for the message.
    """
    theirs = weights_of(other)
    for name in sorted(own.keys() | theirs.keys()):
        if name not in own or name not in theirs:
            having, lacking = (of, than) if name in own else (than, of)
            raise DataError(f"{having.path} has the weights {name}, and {lacking.path} has not: only models of one "
                            "architecture can be merged")  # fmt: skip
        if own[name].shape != theirs[name].shape:
            raise DataError(f"{name} is {tuple(own[name].shape)} in {of.path} and {tuple(theirs[name].shape)} in "
                            f"{than.path}: only models of one shape can be merged")  # fmt: skip
    return theirs
