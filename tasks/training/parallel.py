"""A network that trains on the ranks of a step: whole on each of them (ddp), or with its weights in shards (fsdp).

A training does not see which. It computes with `network(inputs)` inside `computing()`, gives the loss of every pass to
`backward`, calls `reduce` behind the last one, clips, and steps an optimizer on the parameters of `weights`, which are
whole or this rank's rows. Gradients are summed over the ranks, never averaged. `gather` ends the training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tasks.ranks import Ranks
from tasks.training.device import Device
from tasks.training.model import trainable
from tasks.training.opening import with_values

LARGE = 1 << 20
"""Numbers of a gradient that is reduced by itself, while the backward pass goes on; smaller ones go together."""


class Weight(NamedTuple):
    """A weight that learns."""

    name: str
    own: nn.Parameter
    """What an optimizer steps on: the whole weight, or this rank's rows of it, of which there may be none."""
    shape: torch.Size
    """Of the whole weight."""
    start: int = 0
    """First of the rows."""

    @property
    def is_whole(self) -> bool:
        return self.own.shape == self.shape


def whole_weights(model: nn.Module) -> list[Weight]:
    """The weights of a model that lie whole in this process."""
    return [Weight(name, p, p.shape) for name, p in trainable(model)]


class Network(Protocol):
    """A scorer, whose `model` trains."""

    scorer: Any
    ranks: Ranks
    device: Device
    weights: list[Weight]
    equal_passes: bool
    """Whether all ranks must run equal numbers of passes."""

    def computing(self) -> AbstractContextManager[Any]:
        """The context of forward passes: their number type."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a pass's loss; `last`: of this rank's last pass in the step."""

    def reduce(self) -> None:
        """Sum the gradients over all ranks: they are the parameters' of `weights` afterwards."""

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients down to this norm, over all weights and ranks. Returns the norm before."""

    def halve(self) -> None:
        """Make the weights bfloat16."""

    def gather(self, values: Callable[[nn.Parameter], Tensor]) -> None:
        """Give rank 0's model whole weights, each that of `values` for its parameter; nothing trains afterwards."""


class Replica:
    """A network that lies whole in every process."""

    equal_passes = False

    def __init__(self, scorer: Any, device: Device, ranks: Ranks, *, half: bool) -> None:
        """half: whether it computes in bfloat16."""
        self.scorer, self.device, self.ranks = with_values(scorer, device.torch_device), device, ranks
        self.weights = whole_weights(scorer.model)
        self._half = half
        self._reduction = Reduction([w.own for w in self.weights]) if ranks.world > 1 else None

    def computing(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.kind, torch.bfloat16, enabled=self._half)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        if self._reduction:
            self._reduction.running = last
        loss.backward()

    def reduce(self) -> None:
        if self._reduction:
            self._reduction.finish()

    def clip(self, max_norm: float) -> Tensor:
        return nn.utils.clip_grad_norm_([w.own for w in self.weights], max_norm)

    def halve(self) -> None:
        for weight in self.weights:
            weight.own.data = weight.own.data.to(torch.bfloat16)

    def gather(self, values: Callable[[nn.Parameter], Tensor]) -> None:
        for weight in self.weights:
            weight.own.data = values(weight.own).data


class Reduction:
    """Sums of gradients over all ranks. Those of large weights begin while the last backward pass goes on.

    torch's DistributedDataParallel needs equal numbers of passes and a gradient of every weight; this does not: sums
    begin in one order on all ranks, and what a rank did not compute counts 0.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._large = [p for p in reversed(self._parameters) if p.numel() >= LARGE]
        self._started: list[Any] = []
        self._ready: set[nn.Parameter] = set()
        self.running = False
        for parameter in self._large:
            parameter.register_post_accumulate_grad_hook(self._on_gradient)

    def _on_gradient(self, parameter: nn.Parameter) -> None:
        if self.running:
            self._ready.add(parameter)
            while len(self._started) < len(self._large) and self._large[len(self._started)] in self._ready:
                self._start()

    def _start(self) -> None:
        parameter = self._large[len(self._started)]
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        self._started.append(dist.all_reduce(parameter.grad, async_op=True))

    def finish(self) -> None:
        # On the CPU: the flags are read at once.
        flags = torch.tensor([p.grad is not None for p in self._parameters], dtype=torch.int32)
        while len(self._started) < len(self._large):
            self._start()
        for dtype in sorted({p.dtype for p in self._parameters}, key=str):
            self._reduce_small([p for p in self._parameters if p.dtype == dtype and p.numel() < LARGE])
        dist.all_reduce(flags)
        for work in self._started:
            work.wait()
        for parameter, flag in zip(self._parameters, flags.tolist(), strict=True):
            if not flag:
                parameter.grad = None
        self._started, self._ready, self.running = [], set(), False

    def _reduce_small(self, parameters: Sequence[nn.Parameter]) -> None:
        if not parameters:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        dist.all_reduce(flat)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)
