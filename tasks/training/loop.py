"""The training loop: seeded order, exact means over the optimizer batch, metrics, checkpoints, a stop when it diverges.

Kept out: packing across rows, dropout, token-level losses. An optimizer step depends on its rows, never on how they
are cut into micro-batches (but for the last bits, hence the pins in a checkpoint).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from tasks.contract import Chosen, Workspace, chunks
from tasks.training.checkpoint import (
    CheckpointSchedule,
    checkpoint_bytes,
    drop_damaged,
    last_state,
    load_checkpoint,
    pinned_packing,
    save_checkpoint,
)
from tasks.training.device import Device, this_device
from tasks.training.examples import Examples
from tasks.training.gradient_checkpointing import is_wanted, use_gradient_checkpointing
from tasks.training.memory import TrainingSetup
from tasks.training.metrics import DivergenceMonitor, chosen_drift, step_metrics
from tasks.training.model import keep_memory, packing_for
from tasks.training.optimizer import (
    Updater,
    chosen_optimizer,
    make_optimizer,
    set_rate,
    state_bytes_of,
    use_full_weights,
)
from tasks.training.rows import Ints
from tasks.training.settings import OptimConfig, TrainComputeConfig
from tasks.training.step import add_gradients, gathered, on_host


@dataclass(frozen=True)
class Settings:
    """How to train; fields as the parameters of `fit`."""

    lr: float
    optim: OptimConfig
    compute: TrainComputeConfig
    seed: int
    rank: int = 0
    """Of the adapter that learns; 0: the whole model learns."""


def begin(seed: int) -> None:
    """What every training does first, before it opens a model."""
    keep_memory()
    torch.manual_seed(seed)


def train_model(scorer: Any, examples: Examples, loss: Chosen, settings: Settings, work: Workspace) -> None:
    """Train `scorer.model` in place, from the last checkpoint in `work.path` on. Raises DataError if it diverges.

    `scorer` turns a micro-batch's inputs into a number per answer, which the loss is filled with.
    """
    model, optim, compute = scorer.model, settings.optim, settings.compute
    folder, device = work.path / "checkpoint", this_device()
    drop_damaged(folder, work)
    shape = pinned_packing(folder, packing_for(model, device, compute.max_tokens_per_microbatch))
    half = device.dtype(compute.dtype) == torch.bfloat16
    half_weights = compute.weight_dtype == "bfloat16" and not settings.rank  # an adapter's weights are float32
    chosen = chosen_optimizer(optim.optimizer)
    setup = TrainingSetup(
        shape.tokens,
        half=half,
        logits=device.head_logits,
        state=state_bytes_of(chosen),
        half_weights=half_weights,
        rank=settings.rank,
    )
    if is_wanted(compute.gradient_checkpointing, model, setup, device):
        use_gradient_checkpointing(model)
    accelerator = make_accelerator(device, half=half)
    parameters = [p for p in model.parameters() if p.requires_grad]
    scorer = accelerator.prepare(scorer)
    size = checkpoint_bytes(model, setup.state)
    optimizer = make_optimizer(chosen, [parameters], half_weights=half_weights)
    due = CheckpointSchedule(compute.checkpoint_every, compute.checkpoint_minutes, size, usual=50)
    state = load_checkpoint(folder, model, optimizer) or {"step": 0, "tokens": 0, "watch": {}}
    watch, tokens = DivergenceMonitor(**state["watch"]), state["tokens"]
    sizes = examples.rows.tokens
    batches = _batches(len(examples.rows), optim, settings.seed)
    for step, batch in enumerate(batches[state["step"] :], state["step"]):
        begun = time.perf_counter()
        lr = optim.lr_at(step, len(batches), settings.lr)
        added = add_gradients(accelerator, scorer, examples, loss, batch, shape)
        own, norm = on_host(added, accelerator.clip_grad_norm_(parameters, optim.max_grad_norm))
        outcome = gathered(accelerator, own, batch)
        metrics = step_metrics(examples, outcome)
        advice = _advice(folder, settings.lr)
        watch.check_loss(step, metrics["train/loss"], norm, advice)
        watch.check_drift(step, chosen_drift(examples, outcome), advice)
        _update(optimizer, lr)
        read = int(sizes[batch].sum())
        speed = read / (time.perf_counter() - begun)
        tokens += read
        work.log(step + 1, {**metrics, "grad_norm": norm, "lr": lr, "tokens_per_second": speed})
        work.progress(step + 1, len(batches), "steps")
        last = step + 1 == len(batches)
        if last or due.is_due(step + 1):
            kept = {"tokens": tokens, "watch": asdict(watch), "shape": shape._asdict(),
                    "threads": torch.get_num_threads()}  # fmt: skip
            save_checkpoint(folder, step + 1, model, optimizer, kept, final=last)
            due.written()
    use_full_weights(optimizer)
    work.count(tokens=tokens, steps=len(batches))
    if warning := watch.warning():
        work.notice(warning)


def make_accelerator(device: Device, *, half: bool) -> Accelerator:
    """half: whether bodies compute in bfloat16, whatever the type of the weights."""
    return Accelerator(cpu=not device.is_gpu, mixed_precision="bf16" if half else "no")


def _batches(n: int, optim: OptimConfig, seed: int) -> list[Ints]:
    """The rows of every optimizer step: consecutive pieces of one seeded shuffle per epoch."""
    total = optim.rows_in_all(n)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(n) for epoch in range(-(-total // n))])
    return [order[:total][part] for part in chunks(total, optim.batch)]


def _update(optimizer: Updater, lr: float) -> None:
    set_rate(optimizer, lr)
    optimizer.step()
    optimizer.zero_grad()


def _advice(folder: Path, lr: float) -> str:
    state = last_state(folder)
    kept = (
        f"The last good checkpoint is step {state['step']} in {folder}."
        if state
        else "No checkpoint was due before it."
    )
    return (
        f"Likely causes: lr {lr:g} is too high for this model, warm-up is too short, or some rows are "
        f"extreme (weights, margins). {kept} Run again with a smaller lr."
    )
