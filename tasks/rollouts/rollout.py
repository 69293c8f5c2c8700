"""An iteration's answers as the networks read them, and the check that the sampler is the policy that trains."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tasks.advantages.kl import k3
from tasks.contract import DataError
from tasks.rollouts.method import Feedback, Rollout
from tasks.rollouts.networks import Networks, read_tokens

ALIKE = 0.05
"""Nats per token by which sampler and trainer may differ in the mean where both have the weights that training began
with. Measured: 1e-6 where both compute in float32, up to 0.016 for a trainer in bfloat16 and an engine in float32."""
NOISE, GROWTH = 1e-3, 3.0
"""Later they may differ by this, or by so many times the difference at the beginning, which is the number types'."""


class ReadRollout(NamedTuple):
    """A rollout, and what reading it showed."""

    rollout: Rollout
    difference: float
    """Between sampler and trainer, nats per token in the mean."""
    metrics: Mapping[str, float]


def read_rollout(
    networks: Networks, feedback: Feedback, first: float | None = None, *, divergences: bool = False
) -> ReadRollout:
    """What the networks read of the answers. Raises DataError where the sampler is another policy.

    first: the difference between sampler and trainer in the training's first iteration; None in that one. divergences:
    whether those of policy and reference are read, too.
    """
    answers = feedback.answers
    which: dict[str, Any] = {"old": networks.policy, "ref": networks.ref, "values": networks.value}
    if networks.plain is not networks.policy:
        which["plain"] = networks.plain
    if divergences:
        which["divergences"] = lambda inputs: networks.divergence(inputs).reverse_kl
    read = read_tokens(networks, answers.rows, {name: network for name, network in which.items() if network})
    old = read["old"].double()
    ref, values, kls = (_double(read, name) for name in ("ref", "values", "divergences"))
    rollout = Rollout(answers, feedback.scores, old, ref, values, kls, feedback.pairs)
    differences = (read.get("plain", read["old"]) - answers.sampler_logps).abs()[rollout.own_tokens]
    difference = float(differences.mean())
    check_sampler(difference, first)
    own = torch.from_numpy(~answers.by_opponent)
    metrics = {
        "objective/entropy": -rollout.mean_of_own(old),
        "val/finished": float(answers.finished[own].double().mean()),
        "val/length": float(answers.lengths[own].double().mean()),
        "sampler/logp_difference": difference,
        "sampler/logp_difference_max": float(differences.max()),
    }
    if rollout.ref_logps is not None:
        metrics["objective/kl"] = rollout.kl
        metrics["objective/kl_k3"] = rollout.mean_of_own(k3(rollout.log_ratios))
    if rollout.scores is not None or rollout.pairs is not None:
        metrics["objective/unanswered"] = float(feedback.unanswered)
    if rollout.scores is not None:
        metrics["objective/scores"] = float(rollout.scores.mean())
        metrics["objective/scores_std"] = float(rollout.scores.std())
    for name, scores in feedback.members.items():
        metrics |= {f"rewards/{name}/mean": float(scores.mean()), f"rewards/{name}/std": float(scores.std())}
    return ReadRollout(rollout, difference, metrics)


def _double(read: Mapping[str, Tensor], name: str) -> Tensor | None:
    return read[name].double() if name in read else None


def check_sampler(difference: float, first: float | None) -> None:
    """Refuse answers of another policy than the one that trains. Raises DataError.

    In the first iteration (`first` None) both have the same weights from one checkpoint; what they differ by then is
    the number types' and the kernels' doing, and is what later iterations are held against.
    """
    if not math.isfinite(difference):
        raise DataError(
            f"sampler and trainer differ by {difference} nats per token: log-probabilities are not finite. "
            "Likely causes: weights of the policy that are NaN or infinite, from its files or from an lr too high"
        )
    bound = ALIKE if first is None else max(NOISE, GROWTH * first)
    if difference <= bound:
        return
    what = f"sampler and trainer differ by {difference:.3g} nats per token in the mean (allowed: {bound:.3g})"
    cause = (
        "a temperature or stop token that one of them leaves out, another number type, a model that one of them "
        "loads wrongly"
        if first is None
        else "the engine still has old weights after an update, or only some of the new ones"
    )
    raise DataError(f"{what}, so the answers are not the policy's own. Likely causes: {cause}")
