"""An iteration's updates: minibatches of whole prompts, exact over each however it is cut, all networks in one step.

Losses and metrics stay on the networks' device until the last micro-batch of a step is launched, so that a GPU is never
waited for in between.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tasks.advantages.kl import k2
from tasks.contract import DataError
from tasks.ranks import gather_all, this_rank
from tasks.rollouts.divergence import check_update
from tasks.rollouts.method import Critic, Method, Rollout, Targets
from tasks.rollouts.networks import Networks, micro_batches_of, read_tokens
from tasks.rollouts.noise import MINIBATCHES, shuffled
from tasks.rollouts.normalisation import answer_weights
from tasks.rollouts.settings import LoopConfig
from tasks.rollouts.sft_mix import SftMix
from tasks.training.optimizer import Updater, set_rate
from tasks.training.rows import Ints

WEIGHTS = "importance_weights"
"""Name of the factors of `Rollout.weights` among a token's numbers."""
STARTING = "starting_logps"
"""Name of `Rollout.logps` there, where it is not what the ratio is to."""


@dataclass(frozen=True)
class MinibatchStats:
    """What one minibatch showed before its update, per token `(m,)`; empty for what the method does not have."""

    log_ratios: Tensor
    losses: Tensor
    """Weighted, so that their sum is the loss."""
    clipped: Tensor
    value_moves: Tensor
    """|V − V_old|."""
    value_losses: Tensor

    def on(self, device: torch.device) -> "MinibatchStats":
        return MinibatchStats(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def learn(
    networks: Networks,
    optimizer: Updater,
    method: Method,
    rollout: Rollout,
    targets: Targets,
    config: LoopConfig,
    rates: Sequence[float],
    iteration: int,
    mixed: SftMix | None,
) -> dict[str, float]:
    """All updates on one rollout; returns the mean of their metrics.

    Raises DataError where the first one does not start from what the rollout read, or a number is not finite.
    """
    set_rate(optimizer, rates)
    stale = rollout.stale_logps is not None
    read = {"old_logps": rollout.stale_logps if stale else rollout.logps, WEIGHTS: rollout.weights}
    read[STARTING] = rollout.logps if stale else None
    device = networks.device.torch_device
    tokens = {name: x.to(device) for name, x in {**read, **targets.tokens}.items() if x is not None}
    of_updates: list[dict[str, float]] = []
    for number, part in enumerate(_minibatches(rollout, config, iteration)):
        slopes, metrics = _slopes(networks, method, rollout, part, first=number == 0)
        stats = _add_gradients(networks, method, rollout, tokens, part, config, slopes, targets.counted)
        if number == 0:
            check_first(stats, networks.half, stale=stale)
        measured = _metrics(stats, method)
        if mixed is not None:
            step = iteration * config.passes.epochs * config.passes.minibatches + number
            measured["loss/sft"] = mixed.add_gradients(networks, step)
        if networks.reduction:
            networks.reduction.finish()
        norms = [nn.utils.clip_grad_norm_(p, config.optim.max_grad_norm) for p in networks.learned]
        measured |= dict(zip(("grad_norm", "value/grad_norm"), norms, strict=False))
        of_updates.append(_on_host(measured) | metrics)
        check_update(of_updates[-1], method.name, iteration)
        optimizer.step()
        optimizer.zero_grad()
    return {name: float(np.mean([m[name] for m in of_updates])) for name in of_updates[0]}


def _minibatches(rollout: Rollout, config: LoopConfig, iteration: int) -> Iterator[Ints]:
    """Each epoch's own shuffle of the prompts, cut into pieces; the answers to a prompt stay together."""
    groups = rollout.answers.groups
    prompts = [np.flatnonzero(groups == g) for g in dict.fromkeys(groups.tolist())]
    for epoch in range(config.passes.epochs):
        order = shuffled(len(prompts), config.seed, MINIBATCHES, iteration, epoch)
        for piece in np.array_split(order, min(config.passes.minibatches, len(prompts))):
            yield np.concatenate([prompts[i] for i in piece])


def _slopes(
    networks: Networks, method: Method, rollout: Rollout, part: Ints, *, first: bool
) -> tuple[Tensor | None, dict[str, float]]:
    """For a method that couples answers: the slopes of the minibatch's loss in its tokens' log-probabilities.

    They are read without a gradient; before the first update they are those of the rollout, and cost no pass.
    """
    if not method.couples:
        return None, {}
    logps = rollout.logps if first else read_tokens(networks, rollout.rows, {"": networks.policy}, part)[""].double()
    slopes, metrics = method.couple(rollout, part, logps)
    return slopes.to(networks.device.torch_device), metrics


def _add_gradients(
    networks: Networks, method: Method, rollout: Rollout, tokens: Mapping[str, Tensor], part: Ints, config: LoopConfig,
    slopes: Tensor | None, counted: Tensor | None,
) -> MinibatchStats:  # fmt: skip
    """Add the gradients of a minibatch's losses, however it is cut, and of several ranks those of a share of them.
    Returns what all of them showed.

    The policy's graph is gone before the value network's begins: only one network's activations are in memory.
    """
    device, total = networks.device.torch_device, int(rollout.lengths[part].sum())
    weights = _weights(method, rollout, counted, part, config)
    parts: list[MinibatchStats] = []
    for batch in micro_batches_of(rollout.rows, part, networks.shape, this_rank()):
        inputs, places = networks.inputs(batch), networks.places(rollout.rows, batch.rows)
        of_batch = {name: x[places] for name, x in tokens.items()}
        answer = torch.repeat_interleave(torch.arange(len(batch.rows)), rollout.lengths[batch.rows]).to(device)
        logps, read = networks.read(inputs, divergences=method.reads_divergences)
        of_batch |= read
        if slopes is None:
            losses = method.losses(logps, of_batch, answer) * weights[batch.rows].to(device)[answer]
            if WEIGHTS in of_batch:
                losses = losses * of_batch[WEIGHTS]
        else:
            losses = slopes[places] * logps
        losses.sum().backward()
        log_ratios = logps.detach() - of_batch.get(STARTING, of_batch["old_logps"])
        compared = method.ratio_logps(logps.detach(), of_batch, answer)
        clipped = _clipped(compared - of_batch["old_logps"], of_batch, method.clip)
        moves, value_losses = _add_value_gradients(networks, method.critic, inputs, of_batch, total)
        parts.append(MinibatchStats(log_ratios, losses.detach(), clipped, moves, value_losses))
    return _joined(parts, device)


def _weights(method: Method, rollout: Rollout, counted: Tensor | None, part: Ints, config: LoopConfig) -> Tensor:
    """`(S,)` float64: what every token of an answer counts in the minibatch's loss; 0 for those of other answers."""
    counts = torch.ones(len(rollout.answers)) if counted is None else counted
    lengths = rollout.lengths * counts.long()
    weights = torch.zeros(len(rollout.answers), dtype=torch.float64)
    prompts = len(np.unique(rollout.answers.groups))
    weights[part] = answer_weights(
        method.normalisation, lengths[part], tokens_in_all=int(lengths.sum()),
        minibatches=min(config.passes.minibatches, prompts), max_tokens=method.max_tokens,
    )  # fmt: skip
    return weights * counts


def _add_value_gradients(
    networks: Networks, critic: Critic | None, inputs: object, tokens: Mapping[str, Tensor], total: int
) -> tuple[Tensor, Tensor]:
    """Add the gradients of the value network's mean loss over `total` tokens; |V − V_old| and the losses, `(m,)`."""
    if networks.value is None or critic is None:
        none = tokens["old_logps"].new_zeros(0)
        return none, none
    with networks.computing():
        values = networks.value(inputs).double()
    losses = critic.value_losses(values, tokens)
    (losses.sum() / total).backward()
    return (values.detach() - tokens["old_values"]).abs(), losses.detach()


def _joined(parts: Sequence[MinibatchStats], device: torch.device) -> MinibatchStats:
    """The statistics of all micro-batches of all ranks, on the device."""
    if this_rank().world > 1:
        parts = [part for several in gather_all([p.on(torch.device("cpu")) for p in parts]) for part in several]
    names = MinibatchStats.__dataclass_fields__
    return MinibatchStats(*(torch.cat([getattr(p, name).to(device) for p in parts]) for name in names))


def _clipped(log_ratios: Tensor, tokens: Mapping[str, Tensor], clip: tuple[float, float] | None) -> Tensor:
    """Which tokens have a ratio past the bound that their advantage pushes it to, as 0 and 1."""
    if clip is None:
        return log_ratios.new_zeros(0)
    ratio = torch.exp(log_ratios)
    return torch.where(tokens["advantages"] > 0, ratio > 1 + clip[1], ratio < 1 - clip[0]).double()


def _metrics(stats: MinibatchStats, method: Method) -> dict[str, Tensor]:
    metrics = {"policy/approx_kl": k2(stats.log_ratios).mean(), "loss/policy": stats.losses.sum()}
    if method.clip is not None:
        metrics["policy/clip_frac"] = stats.clipped.mean()
    if method.critic is not None:
        metrics["loss/value"] = stats.value_losses.mean()
        metrics["value/clip_frac"] = (stats.value_moves > method.critic.value_clip).double().mean()
    return metrics


def _on_host(metrics: dict[str, Tensor]) -> dict[str, float]:
    """The numbers, in one transfer."""
    return dict(zip(metrics, torch.stack([m.detach().double() for m in metrics.values()]).tolist(), strict=True))


def check_first(stats: MinibatchStats, half: bool, *, stale: bool = False) -> None:
    """Before any update the policy is the one that the rollout read: ratio 1, no KL, nothing clipped. Raises DataError.

    stale: tokens are clipped by the ratio to an older policy, which need not be 1.

    Both are the trainer's own networks on the same rows; `check_sampler` checks whether the sampler is that policy.
    In bfloat16 another layout of the same rows moves single tokens by hundredths, so there the mean is checked.
    """
    off = torch.expm1(stats.log_ratios).abs()
    distance, allowed = (float(off.mean()), 2e-2) if half else (float(off.max()), 1e-3)
    approx_kl, clip_frac = float(k2(stats.log_ratios).mean()), float(stats.clipped.sum()) / max(1, len(stats.clipped))
    if distance <= allowed and approx_kl <= allowed and (half or stale or clip_frac == 0):
        return
    raise DataError(
        f"before the first update the ratio of the policy to itself, as the rollout read it, is off by {distance:.3g} "
        f"(allowed: {allowed:g}), approx_kl is {approx_kl:.3g}, clip_frac {clip_frac:.3g}; they must be 0. Likely "
        "causes: dropout (a module in training mode), a layer that reads a row otherwise beside other rows, or another "
        "number type in one of the two passes"
    )
