"""The gradients of one optimizer step: exact means over the optimizer batch, however it is cut into micro-batches.

Losses and what the metrics need stay on the model's device until the last micro-batch is launched, so that a GPU is
never waited for in between.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import torch

from tasks.contract import Chosen
from tasks.ranks import gather_all
from tasks.training.batches import collate
from tasks.training.body import inputs_of
from tasks.training.coupled import add_coupled_gradients, mean_log_ratio
from tasks.training.examples import Examples, loss_on_batch
from tasks.training.metrics import StepLosses
from tasks.training.packing import PackingConfig, PlannedBatch
from tasks.training.parallel import Network
from tasks.training.rank_plan import plan_of_rank
from tasks.training.rows import Ints


def add_gradients(
    network: Network, examples: Examples, loss: Chosen, batch: Ints, packing: PackingConfig
) -> StepLosses:
    """Add the gradient of the mean loss over the whole optimizer batch, which lies on all ranks, to the weights'.

    The losses returned are those of this process's rows, and lie on its device.
    """
    kl = None if examples.mismatched is None else mean_log_ratio(network, examples.mismatched, batch, packing)
    if examples.couples_rows:
        added = add_coupled_gradients(network, examples, loss, batch, packing, kl)
    else:
        added = _add_by_rows(network, examples, loss, batch, packing, kl)
    network.reduce()
    return added._replace(kl_reference=kl)


def _add_by_rows(
    network: Network, examples: Examples, loss: Chosen, batch: Ints, packing: PackingConfig, kl: float | None
) -> StepLosses:
    """Of a loss that is a sum over rows: one micro-batch after the other."""
    plan = plan_of_rank(examples.rows, batch, packing, network.ranks)
    count = plan.most if network.equal_passes else len(plan.passes)
    total = examples.total_weight(batch)
    parts: list[StepLosses] = []
    for i, (planned, counts) in enumerate(islice(plan.in_step(), count)):
        part = _add_pass(network, examples, loss, planned, total if counts else 0.0, kl, last=i + 1 == count)
        if counts:
            parts.append(part)
    return _joined(parts, network.device.torch_device)


def _add_pass(
    network: Network, examples: Examples, loss: Chosen, planned: PlannedBatch, total: float, kl: float | None, *,
    last: bool,
) -> StepLosses:  # fmt: skip
    """One micro-batch of an optimizer batch, whose losses count by their weights over `total`; 0: its gradient is 0."""
    part = collate(examples.rows, planned)  # while a GPU computes the one before
    rows = torch.from_numpy(part.rows)
    inputs = inputs_of(part, network.device.torch_device)
    with network.computing():
        outputs = network.scorer(inputs)
    losses = loss_on_batch(examples, loss, rows, outputs, kl or 0.0)
    weights = examples.weights[rows].to(losses.device, non_blocking=True)
    network.backward((losses * weights).sum() / total if total else outputs.sum() * 0, last=last)
    return StepLosses(part.rows, losses.detach(), examples.main_output(outputs.detach()))


def _joined(parts: list[StepLosses], device: Any) -> StepLosses:
    if not parts:
        nothing = torch.zeros(0, dtype=torch.float64, device=device)
        return StepLosses(np.zeros(0, np.int64), nothing, nothing)
    return StepLosses(
        np.concatenate([p.rows for p in parts]), torch.cat([p.losses for p in parts]),
        torch.cat([p.logps for p in parts]), parts[0].kl_reference,
    )  # fmt: skip


def on_host(step: StepLosses, norm: torch.Tensor) -> tuple[StepLosses, float]:
    """The losses and the gradient's norm on the CPU, in one transfer."""
    sizes = [len(step.losses), len(step.logps), 1]
    values = torch.cat([step.losses.double(), step.logps.double(), norm.detach().double().reshape(1)]).cpu()
    losses, logps, found = values.split(sizes)
    return StepLosses(step.rows, losses, logps, step.kl_reference), float(found)


def gathered(step: StepLosses) -> StepLosses:
    """The losses of all ranks' rows, on every rank; they lie on the CPU."""
    return _joined(gather_all(step), "cpu")
