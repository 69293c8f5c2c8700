"""Methods without a value network: an answer is as good as it is better than the others to its prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tasks.advantages.group import group_advantages, without_variance
from tasks.advantages.kl import kl_losses
from tasks.advantages.leave_one_out import leave_one_out
from tasks.advantages.overlong import overlong_penalty
from tasks.contract import Chosen
from tasks.rollouts.importance import answer_ratio_logps
from tasks.rollouts.method import Method, Rollout, Targets
from tasks.rollouts.methods.shared import clip_of, losses_of, reward_metrics, shaped_scores
from tasks.rollouts.normalisation import Normalisation
from tasks.rollouts.settings import GroupConfig, GroupKlConfig


@dataclass(frozen=True)
class GroupMethod(Method):
    """What GRPO and RLOO have in common; `advantages` is what they differ by."""

    scores: GroupConfig
    kl: GroupKlConfig
    objective: Chosen
    longest: int | None
    """Tokens of the longest answer allowed; None where nothing needs it."""

    @property
    def max_tokens(self) -> int | None:
        return self.longest

    @property
    def best_of(self) -> int:
        return self.scores.best_of

    @property
    def redraws(self) -> int:
        return self.scores.draw_again

    @property
    def clip(self) -> tuple[float, float]:
        return clip_of(self.objective)

    @abstractmethod
    def advantages(self, rewards: Tensor, groups: Tensor) -> Tensor:
        """`(S,)`, of the answers' rewards; groups: `(S,)`, number of each answer's prompt."""

    def targets(self, rollout: Rollout, coefficient: float) -> Targets:
        scores, groups = self._scores(rollout), torch.from_numpy(rollout.answers.groups)
        rewards, tokens = scores, {}
        if rollout.ref_logps is not None and self.kl.estimator is None:
            rewards = scores - coefficient * rollout.sums(rollout.log_ratios)
        elif rollout.ref_logps is not None:
            tokens = {"ref_logps": rollout.ref_logps, "prices": torch.full_like(rollout.ref_logps, coefficient)}
        tokens["advantages"] = rollout.spread(self.advantages(rewards, groups))
        level = groups[without_variance(scores, groups)].unique()
        metrics = reward_metrics(rollout, scores, coefficient) | {
            "objective/groups_without_variance": float(len(level)),
        }  # fmt: skip
        return Targets(tokens, metrics, rollout.answers.finished if self.scores.mask_cut else None)

    def losses(self, logps: Tensor, tokens: Mapping[str, Tensor], answer: Tensor) -> Tensor:
        compared = self.ratio_logps(logps, tokens, answer)
        losses = losses_of(self.objective, {**tokens, "logps": compared})
        if "prices" not in tokens or self.kl.estimator is None:
            return losses
        distances = kl_losses(*self.kl.estimator, logps - tokens["ref_logps"], answer)
        return losses + tokens["prices"] * distances

    def _scores(self, rollout: Rollout) -> Tensor:
        """`(S,)`: the oracle's scores, less the penalties of answers that were cut, or are nearly too long."""
        scores, cache = shaped_scores(rollout, self.scores), self.scores.overlong_cache
        if cache is None or self.longest is None:
            return scores
        return scores + overlong_penalty(rollout.lengths, longest=self.longest, cache=cache)


@dataclass(frozen=True)
class Grpo(GroupMethod):
    """See `tasks.grouped.grpo`."""

    scale: Literal["group", "batch", "none"] = "group"
    loss_over: Normalisation = "global"
    importance: Literal["token", "sequence"] = "token"
    name = "grpo"

    @property
    def normalisation(self) -> Normalisation:
        return self.loss_over

    def advantages(self, rewards: Tensor, groups: Tensor) -> Tensor:
        return group_advantages(rewards, groups, scale=self.scale)

    def ratio_logps(self, logps: Tensor, tokens: Mapping[str, Tensor], answer: Tensor) -> Tensor:
        if self.importance == "token":
            return logps
        return answer_ratio_logps(logps, tokens["old_logps"], answer)


@dataclass(frozen=True)
class Rloo(GroupMethod):
    """See `tasks.grouped.rloo`."""

    name = "rloo"

    @property
    def normalisation(self) -> Normalisation:
        return "sum"

    def advantages(self, rewards: Tensor, groups: Tensor) -> Tensor:
        return leave_one_out(rewards, groups)
