"""Checkpoints of a training: the complete state, in a folder that appears atomically."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.calls import StateBytes
from tasks.contract import JSON, DataError, Workspace
from tasks.parts import is_intact, new_part
from tasks.training.memory import FLOAT
from tasks.training.model import trainable
from tasks.training.optimizer import Updater, full_weight, write_back
from tasks.training.packing import PackingConfig

MODEL, OPTIMIZER = "model.safetensors", "optimizer.pt"
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
        """Whether a checkpoint is to be written behind step `step`, counted from 1."""
        return (self._every is not None and step % self._every == 0) or monotonic() - self._last >= 60 * self._minutes

    def written(self) -> None:
        """A checkpoint has been written: the time counts from here."""
        self._last = monotonic()


def checkpoint_bytes(model: nn.Module, kept: StateBytes) -> float:
    """Size of a checkpoint: float32 weights, and what the optimizer keeps of each."""
    return sum(p.numel() for _, p in trainable(model)) * (FLOAT + kept.device + kept.host)


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: Updater, state: dict[str, JSON], *, final: bool = False
) -> None:
    """Write `folder/step-<step>`, then delete the previous one. A kill at any time leaves one whole checkpoint.

    final: the optimizer's state is no longer needed, which makes a third of the bytes with AdamW.
    """
    older = _checkpoints(folder)
    with new_part(folder / f"step-{step}") as part:
        weights = {n: full_weight(optimizer, p).detach().contiguous() for n, p in trainable(model)}
        save_file(weights, part / MODEL)
        if not final:
            torch.save(optimizer.state_dict(), part / OPTIMIZER)
        save_file({"cpu": torch.get_rng_state()}, part / "rng.safetensors")
        (part / "state.json").write_text(json.dumps({**state, "step": step}, sort_keys=True))
    for path in older:
        shutil.rmtree(path)


def drop_damaged(folder: Path, work: Workspace) -> None:
    """Remove damaged checkpoints, with a notice; call it before reading any."""
    for path in _checkpoints(folder):
        if not is_intact(path):
            work.notice(f"the checkpoint of {path.name} is damaged; training resumes from the one before, if any")
            shutil.rmtree(path)


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Updater) -> dict[str, Any] | None:
    """Restore model, optimizer and random state from the last checkpoint; returns its state, or None without one.

    Tensors are read one by one, so that they never fill the machine's memory.
    """
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return None
    path = checkpoints[-1]
    parameters = dict(trainable(model))
    with safe_open(path / MODEL, "pt") as weights, torch.no_grad():
        if set(weights.keys()) != parameters.keys():
            raise DataError(f"{path} belongs to another model; delete it to start over")
        for name, parameter in parameters.items():
            full_weight(optimizer, parameter).copy_(weights.get_tensor(name))
    write_back(optimizer)
    if (path / OPTIMIZER).exists():
        optimizer.load_state_dict(torch.load(path / OPTIMIZER, map_location="cpu", mmap=True, weights_only=True))
    torch.set_rng_state(load_file(path / "rng.safetensors")["cpu"])
    return dict(json.loads((path / "state.json").read_text()))


def last_state(folder: Path) -> dict[str, Any]:
    """The state.json of the last checkpoint; empty if there is none."""
    checkpoints = _checkpoints(folder)
    return dict(json.loads((checkpoints[-1] / "state.json").read_text())) if checkpoints else {}


def pinned_packing(folder: Path, packing: PackingConfig) -> PackingConfig:
    """The packing of the interrupted attempt; also restores its number of threads. Others change last bits."""
    state = last_state(folder)
    if not state:
        return packing
    if state["threads"] != torch.get_num_threads():
        torch.set_num_threads(state["threads"])
    return PackingConfig(**state["shape"])


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")))
