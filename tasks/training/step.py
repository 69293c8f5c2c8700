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
    plan = plan_of_rank(examples.rows, batch, packing, network.ranks)
    count = plan.most if network.equal_passes else len(plan.passes)
    parts: list[StepLosses] = []
    for i, (planned, counts) in enumerate(islice(plan.in_step(), count)):
        part = _add_pass(network, examples, loss, planned, len(batch) if counts else 0, last=i + 1 == count)
        if counts:
            parts.append(part)
    network.reduce()
    return _joined(parts, network.device.torch_device)


def _add_pass(
    network: Network, examples: Examples, loss: Chosen, planned: PlannedBatch, size: int, *, last: bool
) -> StepLosses:
    """One micro-batch of an optimizer batch of `size` rows; 0: its gradient is 0."""
    part = collate(examples.rows, planned)  # while a GPU computes the one before
    rows = torch.from_numpy(part.rows)
    inputs = inputs_of(part, network.device.torch_device)
    with network.computing():
        logps = network.scorer(inputs)
    losses = loss_on_batch(examples, loss, rows, logps)
    weights = examples.weights[rows].to(losses.device, non_blocking=True)
    network.backward((losses * weights).sum() / size if size else logps.sum() * 0, last=last)
    return StepLosses(part.rows, losses.detach(), logps.detach())


def _joined(parts: list[StepLosses], device: Any) -> StepLosses:
    if not parts:
        nothing = torch.zeros(0, dtype=torch.float64, device=device)
        return StepLosses(np.zeros(0, np.int64), nothing, nothing)
    rows, losses, logps = zip(*parts, strict=True)
    return StepLosses(np.concatenate(rows), torch.cat(losses), torch.cat(logps))


def on_host(step: StepLosses, norm: torch.Tensor) -> tuple[StepLosses, float]:
    """The losses and the gradient's norm on the CPU, in one transfer."""
    sizes = [len(step.losses), len(step.logps), 1]
    values = torch.cat([step.losses.double(), step.logps.double(), norm.detach().double().reshape(1)]).cpu()
    losses, logps, found = values.split(sizes)
    return StepLosses(step.rows, losses, logps), float(found)


def gathered(step: StepLosses) -> StepLosses:
    """The losses of all ranks' rows, on every rank; they lie on the CPU."""
    return _joined(gather_all(step), "cpu")
