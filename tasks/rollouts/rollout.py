"""An iteration's answers as the networks read them, and the check that the sampler is the policy that trains."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tasks.advantages.kl import k3
from tasks.rollouts.answers import Feedback
from tasks.rollouts.method import Rollout
from tasks.rollouts.mismatch import check_sampler, importance_weights, mismatch_metrics
from tasks.rollouts.networks import Networks, read_tokens
from tasks.rollouts.settings import RolloutConfig


class ReadRollout(NamedTuple):
    """A rollout, and what reading it showed."""

    rollout: Rollout
    difference: float
    """Between sampler and trainer, nats per token in the mean."""
    metrics: Mapping[str, float]


def read_rollout(
    networks: Networks,
    feedback: Feedback,
    config: RolloutConfig,
    first: float | None = None,
    *,
    divergences: bool = False,
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
    mismatch = read.get("plain", read["old"]).double() - answers.sampler_logps
    ref, values, kls = (_double(read, name) for name in ("ref", "values", "divergences"))
    rollout = Rollout(
        answers, feedback.scores, read["old"].double(), ref, values, kls, feedback.pairs,
        importance_weights(mismatch, answers.lengths, config.mismatch),
        answers.sampler_logps if config.stale and config.correction == "none" else None,
    )  # fmt: skip
    own = torch.from_numpy(~answers.by_opponent)
    of_own = mismatch[rollout.own_tokens]
    difference = float(of_own.abs().mean())
    # The policy of stale answers is another than the one that reads them, except in the first iteration.
    check_sampler(difference, first, config.max_mismatch or (math.inf if config.stale and first is not None else None))
    metrics = {
        "objective/entropy": -rollout.mean_of_own(rollout.logps),
        "val/finished": float(answers.finished[own].double().mean()),
        "val/length": float(answers.lengths[own].double().mean()),
        **mismatch_metrics(of_own, answers.lengths[own], config.mismatch),
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
