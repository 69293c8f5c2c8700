"""Checkpoints of a training: the complete state, in a folder that appears atomically.

Weights and optimizer are files of named tensors, one pair of each rank that holds a shard, else one of rank 0. Every
file says at which row of the whole tensor its rows begin, so that any number of ranks reads its own rows of any
checkpoint. (torch.distributed.checkpoint would do that too; but its metadata are pickled, its files cannot be read
tensor by tensor, and a process alone would need a process group.)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.calls import StateBytes
from tasks.contract import JSON, DataError, Workspace
from tasks.parts import is_intact, new_part_of_ranks
from tasks.ranks import Ranks, barrier, broadcast, join
from tasks.training.memory import FLOAT
from tasks.training.optimizer import Updater, full_weight, parameter_state, place_state, write_back
from tasks.training.packing import PackingConfig
from tasks.training.parallel import Weight
from tasks.training.shard_files import RowSlice, ShardFiles, save_rows

MODEL, STATE, OPTIMIZER = "model", "optimizer", "optimizer.pt"
"""Beginnings of the names of files of weights and of an optimizer's state; the file of one that is no plain tensors."""
SMALL = 2**30
"""Bytes of a checkpoint that is written every few steps, because that takes a second or two."""


class CheckpointSchedule:
    """When a checkpoint is due: after so many steps, and after so much time whatever the steps."""

    def __init__(self, every: int | None, minutes: float, size: float, *, usual: int) -> None:
        """every: steps, None: `usual` where `size`, the bytes of a checkpoint, is small, else time alone decides."""
        self._every = every or (usual if size < SMALL else None)
        self._minutes = minutes
        self._last = monotonic()

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be written behind step `step`, counted from 1. Rank 0 decides for all."""
        return bool(broadcast(self._is_due(step)))

    def _is_due(self, step: int) -> bool:
        return (self._every is not None and step % self._every == 0) or monotonic() - self._last >= 60 * self._minutes

    def written(self) -> None:
        """A checkpoint has been written: the time counts from here."""
        self._last = monotonic()


def checkpoint_bytes(weights: Sequence[Weight], kept: StateBytes) -> float:
    """Size of a checkpoint: float32 weights, and what the optimizer keeps of each."""
    return sum(w.shape.numel() for w in weights) * (FLOAT + kept.device + kept.host)


def save_checkpoint(
    folder: Path, step: int, weights: Sequence[Weight], optimizer: Updater, state: dict[str, JSON], *,
    sharded: bool = False, final: bool = False, keep_last: bool = False, beside: Callable[[Path], None] | None = None,
) -> None:  # fmt: skip
    """Write `folder/step-<step>` with all ranks, then delete the previous ones. A kill of any of them at any time
    leaves one whole checkpoint.

    sharded: each rank has rows of the weights; else rank 0 writes all. final: the optimizer's state is no longer
    needed, which makes a third of the bytes with AdamW. keep_last: leave the one before, until `drop_all_but_last`.
    beside: writes further files into the checkpoint.
    """
    ranks = join()
    older = _checkpoints(folder)[: -1 if keep_last else None]
    with new_part_of_ranks(folder / f"step-{step}") as part:
        if sharded or ranks.is_first:
            name = _file_name(ranks if sharded else Ranks())
            save_rows(
                {w.name: RowSlice(full_weight(optimizer, w.own), w.start) for w in weights}, part / f"{MODEL}{name}"
            )
            if not final:
                _save_optimizer(weights, optimizer, part, name)
        if ranks.is_first:
            save_file({"cpu": torch.get_rng_state()}, part / "rng.safetensors")
            (part / "state.json").write_text(json.dumps({**state, "step": step}, sort_keys=True))
            if beside is not None:
                beside(part)
    for path in older if ranks.is_first else ():
        shutil.rmtree(path)


def _file_name(ranks: Ranks) -> str:
    return f"-{ranks.rank + 1:05}-of-{ranks.world:05}.safetensors"


def _save_optimizer(weights: Sequence[Weight], optimizer: Updater, part: Path, name: str) -> None:
    states = {w.name: parameter_state(optimizer, w.own) for w in weights}
    if any(type(x) is not Tensor for state in states.values() for x in state.values()):
        torch.save(optimizer.state_dict(), part / OPTIMIZER)
        return
    rows = {
        f"{w.name}.{key}": RowSlice(value, w.start if value.shape == w.own.shape else 0)
        for w in weights for key, value in states[w.name].items()
    }  # fmt: skip
    save_rows(rows, part / f"{STATE}{name}")


def drop_all_but_last(folder: Path) -> None:
    """Delete the checkpoints before the last one; call it on all ranks."""
    for path in _checkpoints(folder)[:-1] if join().is_first else ():
        shutil.rmtree(path)


def drop_last(folder: Path) -> None:
    """Delete the last checkpoint if there is one before it; call it on all ranks."""
    checkpoints = _checkpoints(folder)
    if join().is_first and len(checkpoints) > 1:
        shutil.rmtree(checkpoints[-1])
    barrier()


def drop_damaged(folder: Path, work: Workspace) -> None:
    """Remove damaged checkpoints, with a notice; call it before reading any, on all ranks."""
    for path in _checkpoints(folder) if join().is_first else ():
        if not is_intact(path):
            work.notice(f"the checkpoint of {path.name} is damaged; training resumes from the one before, if any")
            shutil.rmtree(path)
    barrier()


def load_checkpoint(folder: Path, weights: Sequence[Weight], optimizer: Updater) -> dict[str, Any] | None:
    """Restore weights, optimizer and random state from the last checkpoint; returns its state, or None without one.

    Tensors are read one by one, and of each this rank's rows alone, so that they never fill the machine's memory.
    """
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return None
    path = checkpoints[-1]
    with ShardFiles(sorted(path.glob(f"{MODEL}-*.safetensors"))) as files, torch.no_grad():
        if files.names != {w.name for w in weights}:
            raise DataError(f"{path} belongs to another model; delete it to start over")
        for weight in weights:
            full_weight(optimizer, weight.own).copy_(files.read(weight.name, weight.start, weight.own.shape))
    write_back(optimizer)
    _load_optimizer(path, weights, optimizer)
    torch.set_rng_state(load_file(path / "rng.safetensors")["cpu"])
    return dict(json.loads((path / "state.json").read_text()))


def _load_optimizer(path: Path, weights: Sequence[Weight], optimizer: Updater) -> None:
    if (path / OPTIMIZER).exists():
        optimizer.load_state_dict(torch.load(path / OPTIMIZER, map_location="cpu", mmap=True, weights_only=True))
        return
    own = {w.name: w for w in weights}
    with ShardFiles(sorted(path.glob(f"{STATE}-*.safetensors"))) as files:
        for name in sorted(files.names):
            owner, _, key = name.rpartition(".")
            weight = own[owner]
            # Of numbers for each of the weight, this rank's rows; else all, as of a count of steps.
            by_element = files.shape(name) == weight.shape
            value = files.read(name, weight.start, weight.own.shape) if by_element else files.whole(name)
            place_state(optimizer, weight.own, key, value)


def last_checkpoint(folder: Path) -> Path | None:
    """The folder of the last checkpoint, if there is one."""
    return next(reversed(_checkpoints(folder)), None)


def last_state(folder: Path) -> dict[str, Any]:
    """The state.json of the last checkpoint; empty if there is none."""
    checkpoints = _checkpoints(folder)
    return dict(json.loads((checkpoints[-1] / "state.json").read_text())) if checkpoints else {}


def pinned_packing(folder: Path, packing: PackingConfig) -> PackingConfig:
    """The packing of the interrupted attempt; also restores its number of threads. Others change last bits.

    Nothing is pinned where that one ran as another number of ranks, which changes last bits anyway.
    """
    state = last_state(folder)
    if not state or state.get("ranks", 1) != join().world:
        return packing
    if state["threads"] != torch.get_num_threads():
        torch.set_num_threads(state["threads"])
    return PackingConfig(**state["shape"])


def pins(packing: PackingConfig) -> dict[str, JSON]:
    """What `pinned_packing` reads in the state of a checkpoint."""
    return {"shape": packing._asdict(), "threads": torch.get_num_threads(), "ranks": join().world}


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")))
