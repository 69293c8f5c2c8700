"""From the choice of an optimizer to one that steps: on the model's weights, or on float32 copies of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tasks.calls import StateBytes
from tasks.contract import BY_ELEMENT, STATE_BYTES, Chosen

Groups = list[dict[str, Any]]
UNKEYED = {"tasks.contract.Chosen": "in a wiring the optimizer is a choice; only Python callers pass a name"}


class Updater(Protocol):
    """What a training asks of an optimizer."""

    @property
    def param_groups(self) -> Groups: ...

    def step(self) -> Any: ...

    def zero_grad(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def chosen_optimizer(optimizer: Chosen | str | Mapping[str, Any]) -> Chosen:
    """The optimizer as a choice; Python callers may write it as a wiring does."""
    if isinstance(optimizer, Chosen):
        return optimizer
    [(name, params)] = [(optimizer, {})] if isinstance(optimizer, str) else optimizer.items()
    return Chosen("optimizers", name, params)


def state_bytes_of(optimizer: Chosen) -> StateBytes:
    """What the optimizer keeps per parameter, as it says itself; else as AdamW."""
    own = optimizer.companion(STATE_BYTES)
    return own() if own else StateBytes(device=8)


def can_be_sharded(optimizer: Chosen) -> bool:
    """Whether it may step on parts of weights, each in another process."""
    own = optimizer.companion(BY_ELEMENT)
    return own is not None and bool(own())


def make_optimizer(
    optimizer: Chosen, networks: Sequence[Iterable[nn.Parameter]], *, half_weights: bool = False
) -> Updater:
    """The optimizer over the parameters of one or several networks; a group's `network` is the number of its own.

    Matrices decay, vectors do not. An optimizer on the host, and one for `half_weights`, steps on float32 copies of the
    weights (`Masters`); the weights may become bfloat16 afterwards.
    """
    groups = [
        {"params": found, "decays": decays, "network": number}
        for number, parameters in enumerate(list(map(list, networks)))
        for decays in (True, False)
        if (found := [p for p in parameters if (p.ndim >= 2) == decays])
    ]
    on_host = state_bytes_of(optimizer).host > 0
    return Masters(optimizer, groups, on_host) if on_host or half_weights else optimizer(groups)


def set_rate(optimizer: Updater, rates: float | Sequence[float]) -> None:
    """Set the learning rate, or that of every network."""
    for group in optimizer.param_groups:
        rate = rates if isinstance(rates, float) else rates[group["network"]]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # torchao compiles its step for one tensor
        else:
            group["lr"] = rate


def full_weight(optimizer: Updater, parameter: nn.Parameter) -> Tensor:
    """What the optimizer steps on in place of a parameter: its float32 copy, or the parameter."""
    return optimizer.copies.get(parameter, parameter) if isinstance(optimizer, Masters) else parameter


def write_back(optimizer: Updater) -> None:
    """Round the float32 copies, where there are any, into the weights."""
    if isinstance(optimizer, Masters):
        optimizer.write_back()


def parameter_state(optimizer: Any, parameter: nn.Parameter) -> dict[str, Any]:
    """What the optimizer keeps of a parameter; what is put in counts."""
    if isinstance(optimizer, Masters):
        return parameter_state(optimizer.inner, optimizer.copies[parameter])
    found: dict[str, Any] = optimizer.state[parameter]
    return found


def place_state(optimizer: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    """Give the optimizer a tensor of its state of a parameter, where it computes with it."""
    if isinstance(optimizer, Masters):
        place_state(optimizer.inner, optimizer.copies[parameter], key, value)
        return
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    beside = value.ndim or group.get("fused") or group.get("capturable")  # else it counts steps in Python
    optimizer.state[parameter][key] = value.to(parameter.device) if beside else value


class Masters:
    """An optimizer over float32 copies of a model's weights, on the model's device or on the host.

    A step takes the gradients of the weights, moves the copies, and rounds them back into the weights.
    """

    def __init__(self, optimizer: Chosen, groups: Groups, on_host: bool) -> None:
        self.copies = {p: _copy(p, on_host) for group in groups for p in group["params"]}
        self.inner: Updater = optimizer([{**g, "params": [self.copies[p] for p in g["params"]]} for g in groups])

    @property
    def param_groups(self) -> Groups:
        return self.inner.param_groups

    def step(self) -> None:
        for weight, copy in self.copies.items():
            copy.grad = None if weight.grad is None else weight.grad.to(copy.device, copy.dtype)
        self.inner.step()
        self.write_back()
        self.inner.zero_grad()

    def write_back(self) -> None:
        """Round the copies into the weights."""
        for weight, copy in self.copies.items():
            weight.data.copy_(copy.data, non_blocking=True)

    def zero_grad(self) -> None:
        for weight in self.copies:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


def _copy(weight: nn.Parameter, on_host: bool) -> nn.Parameter:
    copy = weight.detach().to("cpu" if on_host else weight.device, torch.float32, copy=True)
    return nn.Parameter(copy.pin_memory() if on_host and weight.is_cuda else copy)
