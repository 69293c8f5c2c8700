"""The training loop: seeded order, exact means over the optimizer batch, metrics, checkpoints, a stop when it diverges.

Kept out: packing across rows, dropout, token-level losses. An optimizer step depends on its rows, never on how they
are cut into micro-batches (but for the last bits, hence the pins in a checkpoint).
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from tasks.contract import Chosen, Workspace, chunks
from tasks.training.batches import PackingConfig, micro_batches
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
from tasks.training.examples import Examples, loss_on_batch
from tasks.training.logps import inputs_of
from tasks.training.metrics import DivergenceMonitor, StepLosses, chosen_drift, step_metrics
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


@dataclass(frozen=True)
class Settings:
    """How to train; fields as the parameters of `fit`."""

    lr: float
    optim: OptimConfig
    compute: TrainComputeConfig
    seed: int


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
    accelerator = make_accelerator(device, compute.dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    scorer = accelerator.prepare(scorer)
    half_weights = compute.weight_dtype == "bfloat16"
    chosen = chosen_optimizer(optim.optimizer)
    size = checkpoint_bytes(model, state_bytes_of(chosen))
    optimizer = make_optimizer(chosen, [parameters], half_weights=half_weights)
    due = CheckpointSchedule(compute.checkpoint_every, compute.checkpoint_minutes, size, usual=50)
    state = load_checkpoint(folder, model, optimizer) or {"step": 0, "tokens": 0, "watch": {}}
    watch, tokens = DivergenceMonitor(**state["watch"]), state["tokens"]
    sizes = examples.rows.tokens
    batches = _batches(len(examples.rows), optim, settings.seed)
    for step, batch in enumerate(batches[state["step"] :], state["step"]):
        begun = time.perf_counter()
        lr = optim.lr_at(step, len(batches), settings.lr)
        outcome = add_gradients(accelerator, scorer, examples, loss, batch, shape)
        norm = float(accelerator.clip_grad_norm_(parameters, optim.max_grad_norm))
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


def make_accelerator(device: Device, dtype: str) -> Accelerator:
    """Bodies compute in `dtype`, weights stay in float32."""
    half = device.dtype(dtype) == torch.bfloat16
    return Accelerator(cpu=not device.is_gpu, mixed_precision="bf16" if half else "no")


def _batches(n: int, optim: OptimConfig, seed: int) -> list[Ints]:
    """The rows of every optimizer step: consecutive pieces of one seeded shuffle per epoch."""
    total = optim.rows_in_all(n)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(n) for epoch in range(-(-total // n))])
    return [order[:total][part] for part in chunks(total, optim.batch)]


def add_gradients(
    accelerator: Accelerator, scorer: Any, examples: Examples, loss: Chosen, batch: Ints, shape: PackingConfig
) -> StepLosses:
    """Add the gradient of the mean loss over the whole optimizer batch, however it is cut, to the parameters'."""
    world, rank = accelerator.num_processes, accelerator.process_index
    own = batch[rank::world]
    parts = micro_batches(examples.rows, own if len(own) else batch[:1], shape)
    losses, logps = [], []
    for i, part in enumerate(parts):
        last = i + 1 == len(parts)
        with nullcontext() if last else accelerator.no_sync(scorer):
            rows = torch.from_numpy(part.rows)
            part_logps = scorer(inputs_of(part, accelerator.device)).cpu()
            part_losses = loss_on_batch(examples, loss, rows, part_logps)
            # Processes average their gradients, so `world` undoes that; an idle one adds nothing.
            share = (part_losses * examples.weights[rows]).sum() * (world if len(own) else 0) / len(batch)
            accelerator.backward(share)
        losses.append(part_losses.detach())
        logps.append(part_logps.detach())
    outcome = StepLosses(np.concatenate([p.rows for p in parts]), torch.cat(losses), torch.cat(logps))
    return _gathered([outcome] if len(own) else []) if world > 1 else outcome


def _gathered(outcomes: list[StepLosses]) -> StepLosses:
    parts: list[StepLosses] = gather_object(outcomes)
    rows, losses, logps = zip(*parts, strict=True)
    return StepLosses(np.concatenate(rows), torch.cat(losses), torch.cat(logps))


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
