"""A network whose weights, gradients and optimizer lie in shards over all ranks: torch's FSDP2 (`fully_shard`).

Each rank holds some rows of every weight. A layer's weights are whole on a rank only while it computes. The scorer is
the root: its own group (embedding, head, last norm) is whole during a pass, which `tasks.training.head` relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DeviceMesh, DTensor, Shard

from tasks.ranks import Ranks
from tasks.training.body import probe_inputs
from tasks.training.device import Device
from tasks.training.gradient_checkpointing import decoder_layers
from tasks.training.model import trainable
from tasks.training.opening import fill, is_filled, materialize, values_of
from tasks.training.parallel import Weight

PLAIN = MixedPrecisionPolicy(cast_forward_inputs=False)
"""Weights are gathered as they are."""
PRODUCTS = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
"""Weights of products are gathered as the bfloat16 that autocast makes of them; gradients are summed in float32."""


class Shards:
    """A network of which every process holds a shard."""

    equal_passes = True

    def __init__(self, scorer: Any, device: Device, ranks: Ranks, *, half: bool) -> None:
        """half: whether it computes in bfloat16."""
        values = {} if is_filled(scorer) else values_of(scorer)  # taken before rank 0 keeps its rows alone
        self.scorer, self.device, self.ranks = scorer, device, ranks
        self._half = half
        self._mesh = DeviceMesh.from_group(dist.group.WORLD, device.kind)
        _shard(scorer, self._mesh, half, device.torch_device)
        fill(scorer, values, device.torch_device)
        self._sharded = dict(trainable(scorer.model))
        self.weights = [_weight(name, p, ranks) for name, p in self._sharded.items()]
        self._compared = False

    def computing(self) -> AbstractContextManager[Any]:
        """Without autocast's cache, which would keep copies of weights whose shards alone are to be kept."""
        if not self._compared:  # not before `halve`: FSDP keeps the types of its first pass
            self._compared = True
            self._compare_attention()
        return torch.autocast(self.device.kind, torch.bfloat16, enabled=self._half, cache_enabled=False)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def reduce(self) -> None:
        """The backward passes have summed the gradients; here they pass on to the parameters of `weights`."""
        self.scorer.reshard()  # a pass without gradients leaves the root's weights whole: those before a step
        for weight, sharded in zip(self.weights, self._sharded.values(), strict=True):
            weight.own.grad = None if sharded.grad is None else _local(sharded.grad)
            sharded.grad = None

    def clip(self, max_norm: float) -> Tensor:
        parameters = [w.own for w in self.weights]
        grads = [p.grad for p in parameters if p.grad is not None]
        square = nn.utils.get_total_norm(grads).to(self.device.torch_device, torch.float64).square()
        dist.all_reduce(square)
        norm = square.sqrt().float()
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def halve(self) -> None:
        # FSDP follows what `_apply` does to its shards; buffers keep their type.
        self.scorer._apply(lambda x: x.to(torch.bfloat16) if isinstance(x, nn.Parameter) else x)
        self._sharded = dict(trainable(self.scorer.model))
        for weight in self.weights:
            weight.own.data = _local(self._sharded[weight.name].detach())

    def gather(self, values: Callable[[nn.Parameter], Tensor]) -> None:
        """One weight after the other: no rank but the first holds more than one whole."""
        whole: dict[nn.Parameter, nn.Parameter] = {}
        for weight, sharded in zip(self.weights, self._sharded.values(), strict=True):
            own = values(weight.own).detach().to(self.device.torch_device)
            full = DTensor.from_local(
                own, self._mesh, [Shard(0)], run_check=False, shape=sharded.shape, stride=sharded.stride()
            ).full_tensor()
            if self.ranks.is_first:
                whole[sharded] = nn.Parameter(full.cpu())
        if self.ranks.is_first:
            _make_plain(self.scorer, whole)

    def _compare_attention(self) -> None:
        """The model compares two ways of attention at its first use, which all ranks must do together."""
        inputs = probe_inputs(self.scorer.model, self.device.torch_device)
        with torch.no_grad(), self.computing():
            self.scorer(inputs)
        self.scorer.reshard()


def _make_plain(scorer: nn.Module, whole: dict[nn.Parameter, nn.Parameter]) -> None:
    """Give the modules whole weights, and the classes that they had before FSDP, so that they can be saved."""
    for module in scorer.modules():
        if isinstance(module, FSDPModule):
            module.__class__ = next(c for c in type(module).__mro__ if not issubclass(c, FSDPModule))
        for name, parameter in module._parameters.items():
            if parameter in whole:
                module._parameters[name] = whole[parameter]


def _shard(scorer: Any, mesh: DeviceMesh, half: bool, device: torch.device) -> None:
    """Layer by layer, so that no more than one is whole on a rank that has no values yet."""
    layers = decoder_layers(scorer.model)
    for layer in layers:
        materialize(layer, device)
        products = half and not layer._parameters
        for module in _apart(layer) if products else ():
            fully_shard(module, mesh=mesh, mp_policy=PLAIN)
        fully_shard(layer, mesh=mesh, mp_policy=PRODUCTS if products else PLAIN)
    for module in _embedding_apart(scorer.model):
        materialize(module, device)
        fully_shard(module, mesh=mesh, mp_policy=PLAIN)
    materialize(scorer, device)
    fully_shard(scorer, mesh=mesh, mp_policy=PLAIN)
    # In the order of the layers, over the groups within them.
    for before, after in pairwise(layers):
        before.set_modules_to_forward_prefetch([after])
        after.set_modules_to_backward_prefetch([before])
    for module in scorer.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _embedding_apart(model: Any) -> list[nn.Module]:
    """The embedding, which is whole at the beginning of a pass alone, unless it is the head."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    return [] if tied else [embedding]


def _apart(layer: nn.Module) -> Iterator[nn.Module]:
    """The modules of a layer whose own weights autocast leaves as they are: norms, above all."""
    return (m for m in layer.modules() if m._parameters and not isinstance(m, nn.Linear))


def _weight(name: str, sharded: Any, ranks: Ranks) -> Weight:
    rows = -(-sharded.shape[0] // ranks.world)
    own = nn.Parameter(_local(sharded.detach()))
    return Weight(name, own, sharded.shape, min(ranks.rank * rows, sharded.shape[0]))


def _local(tensor: Any) -> Tensor:
    """A rank's own rows, as they lie in memory."""
    local: Tensor = tensor.to_local()
    return local
