"""What a training starts from: a whole model that learns, or an adapter that learns on a frozen base."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tasks.calls import ALL_LINEAR, Adapter
from tasks.contract import SpecError
from tasks.declarations import StepView

if TYPE_CHECKING:
    import torch

    from tasks.kinds import Model
    from tasks.training.settings import TrainComputeConfig

Scorer = TypeVar("Scorer")


def check_adapter(step: StepView) -> None:
    """Raise SpecError for a training whose `adapter` cannot be that of the model which it starts from, as far as a
    wiring shows, and for settings that mean nothing for an adapter."""
    adapter, source, given = _adapter_of(step), step.first("policy"), "adapter" in step.choices
    if given:
        _check_settings(str(step.params.get("save_dtype", "float32")))
    before = _adapter_of(source) if source else None
    if before is not None and (not given or (adapter is not None and _differ(before, adapter))):
        raise SpecError(_advice("`policy`", before, adapter))


def rank_of(step: StepView | None) -> int:
    """The rank of the adapter that a step trains; 0 where it trains none, or that is not known."""
    adapter = _adapter_of(step) if step else None
    return adapter.rank if adapter else 0


def _adapter_of(step: StepView) -> Adapter | None:
    """The adapter that a step trains. A choice of a user's own is not known here."""
    choice = step.choices.get("adapter")
    p: Any = choice.params if choice else {}
    return Adapter(p["rank"], p["alpha"], tuple(p["targets"])) if {"rank", "alpha", "targets"} <= p.keys() else None


def check_learner(source: Model, adapter: Adapter | None, save_dtype: str) -> None:
    """Raise SpecError where an adapter cannot be trained from `source`, before anything is read.

    adapter: the one that is to be trained; None: the whole model.
    """
    from tasks.training.adapters import stored_adapter

    if adapter is not None:
        _check_settings(save_dtype)
    stored = stored_adapter(source)
    if stored is not None and (adapter is None or _differ(stored, adapter)):
        raise SpecError(_advice(str(source.path), stored, adapter))


def open_learner(
    source: Model,
    adapter: Adapter | None,
    opening: Callable[[torch.dtype], Any],
    scoring: Callable[[Any], Scorer],
    compute: TrainComputeConfig,
    seed: int,
) -> Scorer:
    """The scorer of the model to be trained: all of it in float32; or an adapter in float32 on a frozen base, on the
    device, in the types that it computes in.

    An adapter goes on where `source` is one; else `seed` draws it. Raises SpecError for targets that do not fit.

    Args:
        opening: opens the model in a type, with the adapter of `source`, if that is one.
        scoring: makes the scorer of the model.
    """
    import torch

    from tasks.training.adapters import add_layers, layers_of, leave_casts_to_autocast, stored_adapter, target_layers
    from tasks.training.device import this_device
    from tasks.training.model import open_frozen

    if adapter is None:
        return scoring(opening(torch.float32))
    device = this_device()
    half = device.dtype(compute.dtype) == torch.bfloat16
    model = open_frozen(source, opening, compute.weight_dtype, half=half)
    if source.adapter is None:
        add_layers(model, adapter, seed)
    elif {*target_layers(model, adapter.targets)} != {*layers_of(model)}:
        raise SpecError(_advice(str(source.path), cast(Adapter, stored_adapter(source)), adapter))
    if half:
        leave_casts_to_autocast(model)
    with torch.autocast(device.kind, torch.bfloat16, enabled=half):  # products in bfloat16 need it
        return scoring(model.to(device.torch_device))


def _check_settings(save_dtype: str) -> None:
    if save_dtype != "float32":
        raise SpecError(
            f"save_dtype: {save_dtype} is for whole models; an adapter is always stored in float32: leave save_dtype "
            "out (`merge` has a `dtype` for the whole model)"
        )


def _differ(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters differ for any model; `all-linear` may mean the same as names."""
    if (one.rank, one.alpha) != (other.rank, other.alpha):
        return True
    named = ALL_LINEAR not in (*one.targets, *other.targets)
    return named and {*one.targets} != {*other.targets}


def _advice(source: str, stored: Adapter, adapter: Adapter | None) -> str:
    wanted = "and `adapter` is not given" if adapter is None else f"and `adapter` is {_as_wiring(adapter)}"
    return (
        f"{source} is an adapter, {_as_wiring(stored)}, {wanted}. A training goes on with the adapter that it starts "
        "from: set `adapter` to that one, or `merge` it first"
    )


def _as_wiring(adapter: Adapter) -> str:
    targets = ", ".join(adapter.targets)
    return f"{{lora: {{rank: {adapter.rank}, alpha: {adapter.alpha:g}, targets: [{targets}]}}}}"
