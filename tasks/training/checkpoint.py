"""Checkpoints of a training: the complete state, in a folder that appears atomically."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer

from tasks.contract import JSON, DataError, Workspace
from tasks.parts import is_intact, new_part
from tasks.training.batches import PackingConfig
from tasks.training.model import trainable

OPTIMIZER = "optimizer.safetensors"


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: Optimizer | None, state: dict[str, JSON]
) -> None:
    """Write `folder/step-<step>`, then delete the previous one. A kill at any time leaves one whole checkpoint.

    optimizer: None after the last step, when its state is no longer needed: a third of the bytes with AdamW.
    """
    older = _checkpoints(folder)
    with new_part(folder / f"step-{step}") as part:
        save_file({n: p.detach().contiguous() for n, p in trainable(model)}, part / "model.safetensors")
        if optimizer is not None:
            save_file(_optimizer_tensors(optimizer), part / OPTIMIZER)
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


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any] | None:
    """Restore model, optimizer and random state from the last checkpoint; returns its state, or None without one."""
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return None
    path = checkpoints[-1]
    tensors = load_file(path / "model.safetensors")
    parameters = dict(trainable(model))
    if tensors.keys() != parameters.keys():
        raise DataError(f"{path} belongs to another model; delete it to start over")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    if (path / OPTIMIZER).exists():
        _restore_optimizer(optimizer, load_file(path / OPTIMIZER))
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


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """State per parameter as `<number>.<name>`, without the learning rate, which is set at each step."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v).contiguous() for i, entry in state.items() for k, v in entry.items()}


def _restore_optimizer(optimizer: Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
