"""The training loop: seeded order, exact means over the optimizer batch, metrics, checkpoints, a stop when it diverges.

Kept out: packing across rows, dropout, token-level losses. An optimizer step depends on its rows, never on how they
are cut into micro-batches (but for the last bits, hence the pins in a checkpoint).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from tasks.contract import Chosen, Workspace
from tasks.training.batches import PackingConfig, micro_batches
from tasks.training.checkpoint import drop_damaged, last_state, load_checkpoint, pinned_packing, save_checkpoint
from tasks.training.examples import Examples, loss_on_batch
from tasks.training.logps import inputs_of
from tasks.training.metrics import DivergenceMonitor, StepLosses, chosen_drift, step_metrics
from tasks.training.optimizer import Schedule, lr_at, make_optimizer
from tasks.training.rows import Ints


@dataclass(frozen=True)
class Settings:
    """How to train; fields as the parameters of `fit`."""

    examples: int
    """Rows seen in all, counted as often as they come."""
    lr: float
    batch: int
    optimizer: str
    betas: tuple[float, ...]
    schedule: Schedule
    warmup: float
    max_grad_norm: float
    weight_decay: float
    seed: int
    checkpoint_every: int

    @property
    def steps(self) -> int:
        return -(-self.examples // self.batch)


def train_model(
    accelerator: Accelerator,
    scorer: Any,
    examples: Examples,
    loss: Chosen,
    settings: Settings,
    shape: PackingConfig,
    work: Workspace,
) -> None:
    """Train `scorer.model` in place, from the last checkpoint in `work.path` on. Raises DataError if it diverges.

    `scorer` turns a micro-batch's inputs into a number per answer, which the loss is filled with.
    """
    model: Any = scorer.model
    folder = work.path / "checkpoint"
    drop_damaged(folder, work)
    shape = pinned_packing(folder, shape)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, settings.optimizer, settings.lr, settings.betas, settings.weight_decay)
    scorer, optimizer = accelerator.prepare(scorer, optimizer)
    state = load_checkpoint(folder, model, optimizer) or {"step": 0, "tokens": 0, "watch": {}}
    watch, tokens = DivergenceMonitor(**state["watch"]), state["tokens"]
    sizes = examples.rows.tokens
    for step, batch in _batches(len(examples.rows), settings, state["step"]):
        begun = time.perf_counter()
        lr = lr_at(step, settings.steps, settings.lr, settings.warmup, settings.schedule)
        outcome = add_gradients(accelerator, scorer, examples, loss, batch, shape)
        norm = float(accelerator.clip_grad_norm_(parameters, settings.max_grad_norm))
        metrics = step_metrics(examples, outcome)
        advice = _advice(folder, settings)
        watch.check_loss(step, metrics["train/loss"], norm, advice)
        watch.check_drift(step, chosen_drift(examples, outcome), advice)
        _update(optimizer, lr)
        read = int(sizes[batch].sum())
        speed = read / (time.perf_counter() - begun)
        tokens += read
        work.log(step + 1, {**metrics, "grad_norm": norm, "lr": lr, "tokens_per_second": speed})
        work.progress(step + 1, settings.steps, "steps")
        last = step + 1 == settings.steps
        if last or (step + 1) % settings.checkpoint_every == 0:
            kept = {
                "tokens": tokens,
                "watch": asdict(watch),
                "shape": shape._asdict(),
                "threads": torch.get_num_threads(),
            }
            save_checkpoint(folder, step + 1, model, None if last else optimizer, kept)
    work.count(tokens=tokens, steps=settings.steps)
    if warning := watch.warning():
        work.notice(warning)


def _batches(n: int, settings: Settings, first: int) -> Iterator[tuple[int, Ints]]:
    """The rows of every optimizer step from `first` on: consecutive pieces of one seeded shuffle per epoch."""
    epochs = -(-settings.examples // n)
    order = np.concatenate([np.random.default_rng([settings.seed, epoch]).permutation(n) for epoch in range(epochs)])
    order = order[: settings.examples]
    for step in range(first, settings.steps):
        yield step, order[step * settings.batch : (step + 1) * settings.batch]


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


def _update(optimizer: Any, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()


def _advice(folder: Path, settings: Settings) -> str:
    state = last_state(folder)
    kept = (
        f"The last good checkpoint is step {state['step']} in {folder}."
        if state
        else "No checkpoint was due before it."
    )
    return (
        f"Likely causes: lr {settings.lr:g} is too high for this model, warm-up is too short, or some rows are "
        f"extreme (weights, margins). {kept} Run again with a smaller lr."
    )
