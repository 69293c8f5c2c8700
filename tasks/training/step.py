"""The gradients of one optimizer step: exact means over the optimizer batch, however it is cut into micro-batches.

Losses and what the metrics need stay on the model's device until the last micro-batch is launched, so that a GPU is
never waited for in between.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from tasks.contract import Chosen
from tasks.training.batches import collate
from tasks.training.body import inputs_of
from tasks.training.examples import Examples, loss_on_batch
from tasks.training.metrics import StepLosses
from tasks.training.packing import PackingConfig, plan_batch
from tasks.training.rows import Ints


def add_gradients(
    accelerator: Accelerator, scorer: Any, examples: Examples, loss: Chosen, batch: Ints, packing: PackingConfig
) -> StepLosses:
    """Add the gradient of the mean loss over the whole optimizer batch to the parameters'.

    The losses returned are those of this process's rows, and lie on its device.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    own = batch[rank::world]
    plans = plan_batch(examples.rows, own if len(own) else batch[:1], packing)
    losses, logps, rows = [], [], []
    for i, plan in enumerate(plans):
        # Collated here, while a GPU computes the one before.
        part = collate(examples.rows, plan)
        last = i + 1 == len(plans)
        with nullcontext() if last else accelerator.no_sync(scorer):
            part_rows = torch.from_numpy(part.rows)
            part_logps = scorer(inputs_of(part, accelerator.device))
            part_losses = loss_on_batch(examples, loss, part_rows, part_logps)
            weights = examples.weights[part_rows].to(part_losses.device, non_blocking=True)
            # Processes average their gradients, so `world` undoes that; an idle one adds nothing.
            share = (part_losses * weights).sum() * (world if len(own) else 0) / len(batch)
            accelerator.backward(share)
        rows.append(part.rows)
        losses.append(part_losses.detach())
        logps.append(part_logps.detach())
    return StepLosses(np.concatenate(rows), torch.cat(losses), torch.cat(logps))


def on_host(step: StepLosses, norm: torch.Tensor) -> tuple[StepLosses, float]:
    """The losses and the gradient's norm on the CPU, in one transfer."""
    sizes = [len(step.losses), len(step.logps), 1]
    values = torch.cat([step.losses.double(), step.logps.double(), norm.detach().double().reshape(1)]).cpu()
    losses, logps, found = values.split(sizes)
    return StepLosses(step.rows, losses, logps), float(found)


def gathered(accelerator: Accelerator, step: StepLosses, batch: Ints) -> StepLosses:
    """The losses of all processes' rows; they lie on the CPU."""
    if accelerator.num_processes == 1:
        return step
    idle = accelerator.process_index >= len(batch)
    parts: list[StepLosses] = gather_object([] if idle else [step])
    rows, losses, logps = zip(*parts, strict=True)
    return StepLosses(np.concatenate(rows), torch.cat(losses), torch.cat(logps))
