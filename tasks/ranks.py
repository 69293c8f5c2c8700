"""The processes of one step: several *ranks* run the same task and split its work; rank 0 returns the result.

A process reads its rank from its environment, as torch's launchers set it: RANK and WORLD_SIZE (rank 0 of 1 without).
The ranks meet at the file ALIGNFLOW_RENDEZVOUS, which needs no port; without it, at MASTER_ADDR and MASTER_PORT as
under torch's own launchers. torch is imported only where processes talk to each other.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

UNKEYED = {"os.environ": "how many processes share the work of a step, which changes no more than last bits"}
RENDEZVOUS = "ALIGNFLOW_RENDEZVOUS"
"""Variable: the file at which the ranks of a step meet; it does not exist before."""
TIMEOUT = "ALIGNFLOW_RANK_TIMEOUT"
"""Variable: seconds that a rank waits for the others before it fails."""
TIMEOUT_SECONDS = 1800.0


class Ranks(NamedTuple):
    """One of the processes of a step."""

    rank: int = 0
    """Number of this process, from 0."""
    world: int = 1
    """Number of processes."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes checkpoints and the result."""
        return self.rank == 0


def this_rank() -> Ranks:
    """Which process of its step this one is. Raises ValueError where the environment contradicts itself."""
    ranks = Ranks(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    if not 0 <= ranks.rank < ranks.world:
        raise ValueError(f"RANK={ranks.rank} and WORLD_SIZE={ranks.world}: ranks count from 0 to WORLD_SIZE - 1")
    return ranks


def timeout_seconds() -> float:
    """How long a rank waits for the others before it fails."""
    return float(os.environ.get(TIMEOUT, TIMEOUT_SECONDS))


def join() -> Ranks:
    """Connect the ranks of this step, once: over gloo, and over nccl between GPUs. A process alone connects nothing.

    Every rank must call it, or any function below. One that waits longer than ALIGNFLOW_RANK_TIMEOUT for the others
    raises RuntimeError, and so does one whose process group is another's.
    """
    ranks = this_rank()
    if ranks.world == 1:
        return ranks
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        if dist.get_world_size() != ranks.world:
            raise RuntimeError(
                f"this process is connected to {dist.get_world_size()} ranks, not to the {ranks.world} of its step: "
                "something else, such as vLLM in the same process, has made torch's process group"
            )
        return ranks
    _use_loopback()
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(0)  # the executor lets each rank see one GPU
    file = os.environ.get(RENDEZVOUS)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo", init_method=f"file://{file}" if file else "env://",
        rank=ranks.rank, world_size=ranks.world,
        timeout=timedelta(seconds=timeout_seconds()),
    )  # fmt: skip
    return ranks


def leave() -> None:
    """Disconnect the ranks, so that this process may run another step."""
    if this_rank().world == 1:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every rank is here."""
    if join().world == 1:
        return
    import torch
    import torch.distributed as dist

    dist.all_reduce(torch.zeros(1))  # on the CPU, whatever the ranks compute on


def add_up(tensor: Any) -> None:
    """Sum a tensor over all ranks, in place."""
    if join().world > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor)


def gather(value: T) -> list[T]:
    """The values of all ranks in their order, on rank 0; an empty list on the others. Values are pickled."""
    ranks = join()
    if ranks.world == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] | None = [None] * ranks.world if ranks.is_first else None
    dist.gather_object(value, values)
    return values or []


def gather_all(value: T) -> list[T]:
    """The values of all ranks in their order, on every rank. Values are pickled."""
    ranks = join()
    if ranks.world == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * ranks.world
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """The value of rank 0, on every rank. Values are pickled."""
    ranks = join()
    if ranks.world == 1:
        return value
    import torch.distributed as dist

    values: list[Any] = [value if ranks.is_first else None]
    dist.broadcast_object_list(values)
    return values[0]


def _use_loopback() -> None:
    """Make gloo connect ranks of one machine over its loopback interface, whatever the host's name resolves to."""
    import socket

    names = {name for _, name in socket.if_nameindex()}
    here = RENDEZVOUS in os.environ or os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost")
    if here and "lo" in names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
