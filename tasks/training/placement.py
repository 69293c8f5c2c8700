"""Where a training's network lies: whole in every rank (ddp) or in shards over them (fsdp), and what that needs."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from tasks.contract import Chosen, DataError, SpecError
from tasks.ranks import join, this_rank
from tasks.training.device import Device
from tasks.training.memory import ModelShape, TrainingSetup, shards_of
from tasks.training.optimizer import can_be_sharded
from tasks.training.parallel import Network, Replica

UNKEYED = {"os.environ": "where weights lie while they are trained, which changes no more than last bits"}
SHARDING = "ALIGNFLOW_SHARDING"
"""Variable: auto, ddp or fsdp."""


def check_shares(rows: int, batch: int, optimizer: Chosen) -> None:
    """Refuse what several ranks cannot train, before a model is opened.

    Raises DataError where a rank would have nothing to read, SpecError for an optimizer that cannot be sharded.
    """
    world = this_rank().world
    for what, number in (("the table has", rows), ("a batch has", batch)):
        if number < world:
            raise DataError(
                f"{what} {number} rows for {world} ranks: some of them would have nothing to read. Use at most "
                f"{number} ranks"
            )
    if world > 1 and sharding() == "fsdp" and not can_be_sharded(optimizer):
        raise SpecError(
            f"the optimizer {optimizer.name} cannot step on parts of weights, which `sharding: fsdp` leaves each rank: "
            "use adamw, rmsprop or adamw_offloaded, or `sharding: ddp`"
        )


def sharded_setup(setup: TrainingSetup, model: Any, device: Device, optimizer: Chosen) -> TrainingSetup:
    """The setup with as many shards as the environment wants; `auto`: one where that fits on the device."""
    world, shape = this_rank().world, ModelShape.of(model.config.to_dict())
    if world == 1 or not can_be_sharded(optimizer):
        return setup
    memory = device.memory_bytes if device.is_gpu else device.memory_bytes / world
    return replace(setup, shards=shards_of(sharding(), world, shape, setup, memory))


def place(scorer: Any, device: Device, *, half: bool, sharded: bool) -> Network:
    """Make a scorer, as `open_on_ranks` opens it, a network on all ranks. half: whether it computes in bfloat16."""
    ranks = join()
    if sharded and ranks.world > 1:
        from tasks.training.sharded import Shards

        network: Network = Shards(scorer, device, ranks, half=half)
    else:
        network = Replica(scorer, device, ranks, half=half)
    return network


def sharding() -> str:
    """auto, ddp or fsdp, as this step's profile wants it."""
    return os.environ.get(SHARDING) or "auto"
