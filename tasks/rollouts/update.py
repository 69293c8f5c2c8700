"""An iteration's updates: minibatches of whole prompts, exact means over each, both networks in one step.

Losses and metrics stay on the networks' device until the last micro-batch of a step is launched, so that a GPU is never
waited for in between.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tasks.contract import Chosen, DataError
from tasks.losses.rl.clipped import clipped
from tasks.ranks import gather_all, this_rank
from tasks.rollouts.advantages import k2, value_loss
from tasks.rollouts.networks import Networks, micro_batches_of
from tasks.rollouts.noise import MINIBATCHES, shuffled
from tasks.rollouts.rollout import Rollout
from tasks.rollouts.settings import PpoConfig, UpdateConfig
from tasks.rollouts.sft_mix import SftMix
from tasks.training.optimizer import Updater, set_rate
from tasks.training.rows import Ints, Rows


@dataclass(frozen=True)
class MinibatchStats:
    """What one minibatch showed before its update, per token `(M,)`."""

    log_ratios: Tensor
    advantages: Tensor
    losses: Tensor
    value_moves: Tensor
    """|V − V_old|."""
    value_losses: Tensor

    def on(self, device: torch.device) -> "MinibatchStats":
        return MinibatchStats(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def learn(
    networks: Networks,
    optimizer: Updater,
    rollout: Rollout,
    config: PpoConfig,
    rates: tuple[float, float],
    iteration: int,
    mixed: SftMix | None,
) -> dict[str, float]:
    """All updates on one rollout; returns the mean of their metrics.

    Raises DataError where the first one does not start from what the rollout read, or a number is not finite.
    """
    set_rate(optimizer, rates)
    rollout = rollout.on(networks.device.torch_device)
    update, clip_eps = config.update, _clip_eps(config.update.objective)
    of_updates: list[dict[str, float]] = []
    for number, part in enumerate(_minibatches(rollout.rows, config, iteration)):
        seen = _add_gradients(networks, rollout, part, update)
        if number == 0:
            check_first(seen, clip_eps, networks.half)
        found = _metrics(seen, update.value_clip, clip_eps)
        if mixed is not None:
            step = iteration * update.epochs * update.minibatches + number
            found["loss/sft"] = mixed.add_gradients(networks, step)
        if networks.reduction:
            networks.reduction.finish()
        norms = [nn.utils.clip_grad_norm_(p, config.optim.max_grad_norm) for p in networks.learned]
        metrics = _on_host(found | {"grad_norm": norms[0], "value/grad_norm": norms[1]})
        _check_finite(metrics, iteration)
        optimizer.step()
        optimizer.zero_grad()
        of_updates.append(metrics)
    return {name: float(np.mean([m[name] for m in of_updates])) for name in of_updates[0]}


def _clip_eps(objective: Chosen) -> float:
    """Where the objective clips; one that does not is counted at the usual bound, that of `clipped`."""
    usual = inspect.signature(clipped).parameters["clip_eps"].default
    eps = objective.params.get("clip_eps", usual)
    return float(eps if isinstance(eps, int | float) else usual)


def _minibatches(rows: Rows, config: PpoConfig, iteration: int) -> Iterator[Ints]:
    """Each epoch's own shuffle of the prompts, cut into pieces; the answers to a prompt stay together."""
    groups: dict[bytes, list[int]] = {}
    for i in range(len(rows)):
        groups.setdefault(rows.prompts.at(i).tobytes(), []).append(i)
    prompts = [np.array(g, np.int64) for g in groups.values()]
    for epoch in range(config.update.epochs):
        order = shuffled(len(prompts), config.seed, MINIBATCHES, iteration, epoch)
        for piece in np.array_split(order, min(config.update.minibatches, len(prompts))):
            yield np.concatenate([prompts[i] for i in piece])


def _add_gradients(networks: Networks, rollout: Rollout, part: Ints, update: UpdateConfig) -> MinibatchStats:
    """Add the gradients of the mean losses over all tokens of a minibatch, however it is cut, and of several ranks
    those of a share of them. Returns what all of them showed.

    The policy's graph is gone before the value network's begins: only one network's activations are in memory.
    """
    names = inspect.signature(update.objective.function).parameters
    total = int(rollout.rows.answers.lengths[part].sum())
    parts: list[MinibatchStats] = []
    for batch in micro_batches_of(rollout.rows, part, networks.shape, this_rank()):
        inputs, places = networks.inputs(batch), networks.places(rollout.rows, batch.rows)
        with networks.computing():
            logps = networks.policy(inputs).double()
        old, advantages = rollout.old_logps[places], rollout.advantages[places]
        given = {"logps": logps, "old_logps": old, "advantages": advantages}
        losses = update.objective(**{name: x for name, x in given.items() if name in names})
        (losses.sum() / total).backward()
        with networks.computing():
            values = networks.value(inputs).double()
        old_values = rollout.old_values[places]
        value_losses = value_loss(values, old_values, rollout.returns[places], clip=update.value_clip)
        (value_losses.sum() / total).backward()
        moves = (values.detach() - old_values).abs()
        parts.append(MinibatchStats(logps.detach() - old, advantages, losses.detach(), moves, value_losses.detach()))
    return _joined(parts, networks.device.torch_device)


def _joined(parts: Sequence[MinibatchStats], device: torch.device) -> MinibatchStats:
    """The statistics of all micro-batches of all ranks, on the device."""
    if this_rank().world > 1:
        parts = [part for several in gather_all([p.on(torch.device("cpu")) for p in parts]) for part in several]
    names = MinibatchStats.__dataclass_fields__
    return MinibatchStats(*(torch.cat([getattr(p, name).to(device) for p in parts]) for name in names))


def _metrics(seen: MinibatchStats, value_clip: float, clip_eps: float) -> dict[str, Tensor]:
    return {
        "policy/approx_kl": k2(seen.log_ratios).mean(),
        "policy/clip_frac": _clipped(seen, clip_eps),
        "loss/policy": seen.losses.mean(),
        "loss/value": seen.value_losses.mean(),
        "value/clip_frac": (seen.value_moves > value_clip).double().mean(),
    }


def _on_host(metrics: dict[str, Tensor]) -> dict[str, float]:
    """The numbers, in one transfer."""
    return dict(zip(metrics, torch.stack([m.detach().double() for m in metrics.values()]).tolist(), strict=True))


def _clipped(seen: MinibatchStats, clip_eps: float) -> Tensor:
    """Share of tokens whose ratio is past the bound that its advantage pushes it to."""
    ratio = torch.exp(seen.log_ratios)
    past = torch.where(seen.advantages > 0, ratio > 1 + clip_eps, ratio < 1 - clip_eps)
    return past.double().mean()


def check_first(seen: MinibatchStats, clip_eps: float, half: bool) -> None:
    """Before any update the policy is the one that the rollout read: ratio 1, no KL, nothing clipped. Raises DataError.

    Both are the trainer's own networks on the same rows; `check_sampler` checks whether the sampler is that policy.
    In bfloat16 another layout of the same rows moves single tokens by hundredths, so there the mean is checked.
    """
    off = torch.expm1(seen.log_ratios).abs()
    distance, allowed = (float(off.mean()), 2e-2) if half else (float(off.max()), 1e-3)
    approx_kl, clip_frac = float(k2(seen.log_ratios).mean()), float(_clipped(seen, clip_eps))
    if distance <= allowed and approx_kl <= allowed and (half or clip_frac == 0):
        return
    raise DataError(
        f"before the first update the ratio of the policy to itself, as the rollout read it, is off by {distance:.3g} "
        f"(allowed: {allowed:g}), approx_kl is {approx_kl:.3g}, clip_frac {clip_frac:.3g}; they must be 0. Likely "
        "causes: dropout (a module in training mode), a layer that reads a row otherwise beside other rows, or another "
        "number type in one of the two passes"
    )


def _check_finite(metrics: dict[str, float], iteration: int) -> None:
    broken = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise DataError(
            f"PPO broke in iteration {iteration + 1}: {', '.join(broken)}. Likely causes: lr is too high for this "
            "model, or scores are extreme. Run again with a smaller lr, from the start: it is another training"
        )
