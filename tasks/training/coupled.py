"""What couples the rows of an optimizer batch: losses of the whole batch, and a mean over answers to other prompts.

Both need the model's outputs of all rows before the first gradient, so these are computed without gradients, one
micro-batch after the other, and gathered from all ranks. The gradient of the whole loss with respect to the outputs
then goes back through the micro-batches one by one, as in GradCache (Gao et al., arXiv 2101.06983): memory is that of
one micro-batch, time that of one more forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasks.contract import Chosen
from tasks.ranks import gather_all
from tasks.training.batches import MicroBatch, collate
from tasks.training.body import inputs_of
from tasks.training.examples import Examples, loss_on_batch
from tasks.training.metrics import StepLosses
from tasks.training.mismatched import Mismatched
from tasks.training.packing import PackingConfig
from tasks.training.parallel import Network
from tasks.training.rank_plan import plan_of_rank
from tasks.training.rows import Ints, Rows


class Pass(NamedTuple):
    """A micro-batch of this rank."""

    batch: MicroBatch
    counts: bool
    """Whether its rows belong to this rank; else it only keeps the number of passes equal."""


class Whole(NamedTuple):
    """The model's outputs for a whole optimizer batch, and where this rank's rows lie in it."""

    outputs: Tensor
    """`(S,)` or `(S, O)`: all answers in the order of the batch's rows, without a gradient."""
    own_rows: Ints
    """Of this rank, in the order of its passes."""
    rows: Tensor
    """Their places in the batch."""
    answers: list[Tensor]
    """The places of each pass's answers among `outputs`; none for a pass that does not count."""


def mean_log_ratio(network: Network, mismatched: Mismatched, batch: Ints, packing: PackingConfig) -> float:
    """Mean of log π/π_ref over the mismatched answers of an optimizer batch, on all ranks, in nats.

    It estimates KL(π ‖ π_ref) and may be below 0. No gradient goes through it.
    """
    passes = _passes(network, mismatched.rows, batch, packing)
    whole = _whole(network, mismatched.rows, batch, passes, [_without_gradient(network, one) for one in passes])
    return float((first_output(whole.outputs).cpu() - mismatched.ref_logps[torch.from_numpy(batch)]).mean())


def add_coupled_gradients(
    network: Network, examples: Examples, loss: Chosen, batch: Ints, packing: PackingConfig, kl: float | None
) -> StepLosses:
    """Add the gradient of a loss that takes the whole optimizer batch at once, wherever its rows lie.

    One micro-batch on one rank needs no second forward pass.
    """
    passes = _passes(network, examples.rows, batch, packing)
    alone = network.ranks.world == 1 and len(passes) == 1
    first = [_forward(network, one) if alone else _without_gradient(network, one) for one in passes]
    whole = _whole(network, examples.rows, batch, passes, [outputs.detach() for outputs in first])
    losses, gradient = _losses_and_gradient(examples, loss, batch, whole.outputs, kl)
    for i, (one, answers) in enumerate(zip(passes, whole.answers, strict=True)):
        outputs = first[0] if alone else _forward(network, one)
        pulled = (outputs * gradient[answers]).sum() if one.counts else outputs.sum() * 0
        network.backward(pulled, last=i + 1 == len(passes))
    logps = examples.main_output(whole.outputs)[torch.cat([*whole.answers, whole.rows[:0]])]
    return StepLosses(whole.own_rows, losses[whole.rows], logps)


def first_output(outputs: Tensor) -> Tensor:
    """`(S,)`: the family's own output of each answer, of `(S,)` or `(S, O)`."""
    return outputs[:, 0] if outputs.ndim == 2 else outputs


def _losses_and_gradient(
    examples: Examples, loss: Chosen, batch: Ints, outputs: Tensor, kl: float | None
) -> tuple[Tensor, Tensor]:
    """The losses `(B,)` of the batch, and the gradient of their mean in the outputs."""
    with torch.enable_grad():
        leaf = outputs.requires_grad_()
        losses = loss_on_batch(examples, loss, torch.from_numpy(batch), leaf, kl or 0.0)
        weights = examples.weights[torch.from_numpy(batch)].to(losses.device)
        mean = (losses * weights).sum() / examples.total_weight(batch)
        (gradient,) = torch.autograd.grad(mean, leaf)
    leaf.requires_grad_(requires_grad=False)
    return losses.detach(), gradient


def _passes(network: Network, rows: Rows, batch: Ints, packing: PackingConfig) -> list[Pass]:
    plan = plan_of_rank(rows, batch, packing, network.ranks)
    count = plan.most if network.equal_passes else len(plan.passes)
    return [Pass(collate(rows, planned), counts) for planned, counts in islice(plan.in_step(), count)]


def _forward(network: Network, one: Pass) -> Tensor:
    inputs = inputs_of(one.batch, network.device.torch_device)
    with network.computing():
        outputs: Tensor = network.scorer(inputs)
    return outputs


def _without_gradient(network: Network, one: Pass) -> Tensor:
    with torch.no_grad():
        return _forward(network, one)


def _whole(network: Network, rows: Rows, batch: Ints, passes: Sequence[Pass], outputs: Sequence[Tensor]) -> Whole:
    """The outputs of all ranks. outputs: of each pass of this rank."""
    device, number = network.device.torch_device, network.ranks.rank
    counted = [(one.batch.rows, values) for one, values in zip(passes, outputs, strict=True) if one.counts]
    own_rows = np.concatenate([np.zeros(0, np.int64), *(each for each, _ in counted)])
    values = [each for _, each in counted]
    everyone = gather_all((own_rows, values if network.ranks.world == 1 else [each.cpu() for each in values]))
    place = _places(np.concatenate([each for each, _ in everyone]), batch)
    counts = np.diff(rows.starts)[batch]
    starts = np.cumsum(counts) - counts
    gathered = torch.cat([each.to(device) for _, several in everyone for each in several])
    whole = torch.empty_like(gathered)
    whole[_ranges(starts[place], counts[place], device)] = gathered
    begin = sum(len(each) for each, _ in everyone[:number])
    own = place[begin : begin + len(own_rows)]
    ends = np.cumsum([len(one.batch.rows) * one.counts for one in passes])
    each_pass = [own[end - len(one.batch.rows) * one.counts : end] for one, end in zip(passes, ends, strict=True)]
    answers = [_ranges(starts[part], counts[part], device) for part in each_pass]
    return Whole(whole, own_rows, torch.from_numpy(own).to(device), answers)


def _places(rows: Ints, batch: Ints) -> Ints:
    """Where each of `rows` lies in `batch`, which holds the same ones; a row that comes twice has both places."""
    place = np.empty(len(batch), np.int64)
    place[np.argsort(rows, kind="stable")] = np.argsort(batch, kind="stable")
    return place


def _ranges(starts: Ints, counts: Ints, device: torch.device) -> Tensor:
    """The numbers `start … start + count − 1` of each, one after the other."""
    ends = np.cumsum(counts)
    return torch.from_numpy(np.arange(counts.sum()) + np.repeat(starts - (ends - counts), counts)).to(device)
