"""Methods without a value network: an answer is as good as it is better than the others to its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.contract import Chosen
from tasks.rollouts.method import Method, Rollout, Targets
from tasks.rollouts.methods.shared import clip_of, losses_of, reward_metrics, shaped_scores
from tasks.rollouts.normalisation import Normalisation
from tasks.rollouts.settings import ScoreConfig


@dataclass(frozen=True)
class Grpo(Method):
    """See `tasks.grouped.grpo`."""

    reward: ScoreConfig
    objective: Chosen
    loss_over: Normalisation
    name = "grpo"

    @property
    def normalisation(self) -> Normalisation:
        return self.loss_over

    @property
    def clip(self) -> tuple[float, float]:
        return clip_of(self.objective)

    def targets(self, rollout: Rollout, coefficient: float) -> Targets:
        scores = shaped_scores(rollout, self.reward)
        rewards = scores if rollout.ref_logps is None else scores - coefficient * rollout.sums(rollout.log_ratios)
        groups = torch.from_numpy(rollout.answers.groups)
        sums = rewards.new_zeros(int(groups.max()) + 1).index_add(0, groups, rewards)
        advantages = rewards - (sums / torch.bincount(groups))[groups]
        return Targets({"advantages": rollout.spread(advantages)}, reward_metrics(rollout, scores, coefficient))

    def losses(self, logps: Tensor, tokens: Mapping[str, Tensor], answer: Tensor) -> Tensor:
        return losses_of(self.objective, {**tokens, "logps": logps})
