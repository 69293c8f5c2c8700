"""Opening a model on several ranks: rank 0 reads and checks it; the others get its structure, then weights one by one.

So the machine holds a model as often as the ranks keep it: once in shards, and on each rank only where it lies whole.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tasks.ranks import broadcast, gather_all, join

Scorer = TypeVar("Scorer", bound=nn.Module)


def open_on_ranks(opening: Callable[[], Scorer]) -> Scorer:
    """The module that `opening` makes. Ranks but the first have tensors without values: `tasks.training.placement`
    fills them. A module that cannot be pickled is opened by each rank for itself.
    """
    ranks = join()
    if ranks.world == 1:
        return opening()
    module = opening() if ranks.is_first else None
    structure = broadcast(_structure(module) if module is not None else None)
    if module is None:
        module = opening() if structure is None else pickle.loads(structure)
    return module


def with_values(module: Scorer, device: torch.device) -> Scorer:
    """A module that `open_on_ranks` opened, whole on the device of every rank."""
    values = {} if is_filled(module) else values_of(module)
    materialize(module, device)
    module.to(device)
    fill(module, values, device)
    return module


def is_filled(module: nn.Module) -> bool:
    """Whether the module has values on all ranks."""
    return not any(gather_all(any(p.is_meta for p in module.parameters())))


def values_of(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of a module."""
    return {name: p.detach() for name, p in module.named_parameters()} | dict(module.named_buffers())


def materialize(module: nn.Module, device: torch.device) -> None:
    """Give tensors without values memory on the device, which is not yet filled; tied ones stay tied."""
    made: dict[Tensor, Tensor] = {}
    for owner in module.modules():
        for tensors in (owner._parameters, owner._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_meta:
                    if tensor not in made:
                        made[tensor] = _empty(tensor, device)
                    tensors[name] = made[tensor]


def fill(module: nn.Module, values: Mapping[str, Tensor], device: torch.device) -> None:
    """Send rank 0's `values` to the parameters and buffers of all ranks, one whole tensor at a time.

    values: those of rank 0, as `values_of` gives them; of other ranks, only shapes and types are read.
    """
    first = join().is_first
    targets = values_of(module)
    for name, value in values.items():
        whole = value.to(device).contiguous() if first else torch.empty(value.shape, dtype=value.dtype, device=device)
        dist.broadcast(whole, 0)
        with torch.no_grad():
            _copy_rows(targets[name], whole)


def _copy_rows(target: Any, whole: Tensor) -> None:
    from torch.distributed.tensor import DTensor

    if not isinstance(target, DTensor):
        target.copy_(whole)
        return
    local, world = target.to_local(), target.device_mesh.size()
    rows = -(-whole.shape[0] // world)
    start = min(target.device_mesh.get_local_rank() * rows, whole.shape[0])
    local.copy_(whole[start : start + local.shape[0]])


def _empty(tensor: Tensor, device: torch.device) -> Tensor:
    empty = torch.empty_like(tensor, device=device)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _structure(module: nn.Module) -> bytes | None:
    """The module, pickled without the values of its tensors; None where it cannot be."""
    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump(module)
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        kind = (value.shape, value.dtype, value.requires_grad, isinstance(value, nn.Parameter))
        return _without_values, kind


def _without_values(shape: torch.Size, dtype: torch.dtype, learns: bool, is_parameter: bool) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    return nn.Parameter(tensor, learns) if is_parameter else tensor
