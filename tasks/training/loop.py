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

from tasks.calls import StateBytes
from tasks.contract import Chosen, Workspace, chunks
from tasks.training.checkpoint import (
    CheckpointSchedule,
    checkpoint_bytes,
    drop_damaged,
    last_state,
    load_checkpoint,
    pinned_packing,
    pins,
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
    full_weight,
    make_optimizer,
    set_rate,
    state_bytes_of,
)
from tasks.training.packing import PackingConfig
from tasks.training.parallel import Network
from tasks.training.placement import check_shares, place, sharded_setup
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


def begin(rows: int, optim: OptimConfig, seed: int) -> None:
    """What every training on a table of so many rows does first, before it opens a model.

    Raises DataError for more ranks than rows, and SpecError for what ranks cannot do.
    """
    check_shares(rows, optim.batch, chosen_optimizer(optim.optimizer))
    keep_memory()
    torch.manual_seed(seed)


def train_model(scorer: Any, examples: Examples, loss: Chosen, settings: Settings, work: Workspace) -> None:
    """Train `scorer.model` in place, from the last checkpoint in `work.path` on. Raises DataError if it diverges.

    `scorer` turns a micro-batch's inputs into a number per answer, which the loss is filled with. Several ranks train
    one model; at the end that of rank 0 has its weights.
    """
    folder, device = work.path / "checkpoint", this_device()
    drop_damaged(folder, work)
    packing = packing_for(scorer.model, device, settings.compute.max_tokens_per_microbatch)
    if not getattr(scorer, "shares_rows", True):
        packing = packing._replace(share=False, span_cost=None)
    packing = pinned_packing(folder, packing)
    network, optimizer, state_bytes = _placed(scorer, device, packing, settings)
    _run(network, optimizer, state_bytes, packing, examples, loss, settings, work)
    network.gather(lambda own: full_weight(optimizer, own))


def _placed(
    scorer: Any, device: Device, packing: PackingConfig, settings: Settings
) -> tuple[Network, Updater, StateBytes]:
    """The network and its optimizer, with what that keeps of each weight."""
    compute, chosen = settings.compute, chosen_optimizer(settings.optim.optimizer)
    half = device.dtype(compute.dtype) == torch.bfloat16
    half_weights = compute.weight_dtype == "bfloat16"
    setup = TrainingSetup(
        packing.tokens, half=half, logits=device.head_logits, state=state_bytes_of(chosen), half_weights=half_weights,
        rank=settings.rank,
    )  # fmt: skip
    setup = sharded_setup(setup, scorer.model, device, chosen)
    if is_wanted(compute.gradient_checkpointing, scorer.model, setup, device):
        use_gradient_checkpointing(scorer.model)
    half_weights &= not settings.rank  # an adapter's weights are float32
    network = place(scorer, device, half=half, sharded=setup.shards > 1)
    optimizer = make_optimizer(chosen, [[w.own for w in network.weights]], half_weights=half_weights)
    if half_weights:
        network.halve()
    return network, optimizer, setup.state


def _run(
    network: Network, optimizer: Updater, state_bytes: StateBytes, packing: PackingConfig, examples: Examples,
    loss: Chosen, settings: Settings, work: Workspace,
) -> None:  # fmt: skip
    """All steps from the last checkpoint on."""
    folder, optim, compute = work.path / "checkpoint", settings.optim, settings.compute
    size = checkpoint_bytes(network.weights, state_bytes)
    due = CheckpointSchedule(compute.checkpoint_every, compute.checkpoint_minutes, size, usual=50)
    state = load_checkpoint(folder, network.weights, optimizer) or {"step": 0, "tokens": 0, "watch": {}}
    watch, tokens = DivergenceMonitor(**state["watch"]), state["tokens"]
    sizes = examples.rows.tokens
    batches = _batches(len(examples.rows), optim, settings.seed)
    for step, batch in enumerate(batches[state["step"] :], state["step"]):
        begun = time.perf_counter()
        lr = optim.lr_at(step, len(batches), settings.lr)
        added = add_gradients(network, examples, loss, batch, packing)
        own, norm = on_host(added, network.clip(optim.max_grad_norm))
        outcome = gathered(own)
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
            kept = {"tokens": tokens, "watch": asdict(watch), **pins(packing)}
            save_checkpoint(
                folder, step + 1, network.weights, optimizer, kept, sharded=network.equal_passes, final=last
            )
            due.written()
    work.count(tokens=tokens, steps=len(batches))
    if warning := watch.warning():
        work.notice(warning)


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
