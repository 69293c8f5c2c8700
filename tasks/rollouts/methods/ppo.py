"""Proximal Policy Optimization: token rewards, advantages by a value network, a clipped or penalised surrogate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tasks.advantages.gae import gae
from tasks.advantages.kl import token_rewards
from tasks.contract import Chosen
from tasks.rollouts.advantages import as_table, explained_variance, mask_of, value_loss, whitened
from tasks.rollouts.method import Method, Rollout, Targets
from tasks.rollouts.methods.shared import clip_of, losses_of, reward_metrics, shaped_scores
from tasks.rollouts.settings import RewardConfig


@dataclass(frozen=True)
class Ppo(Method):
    """See `tasks.rl.ppo`. It is its own critic: what its value network learns."""

    reward: RewardConfig
    objective: Chosen
    value_clip: float = 0.2

    name = "ppo"

    @property
    def best_of(self) -> int:
        return self.reward.best_of

    @property
    def clip(self) -> tuple[float, float]:
        return clip_of(self.objective)

    @property
    def critic(self) -> Ppo:
        return self

    def targets(self, rollout: Rollout, coefficient: float) -> Targets:
        assert rollout.values is not None
        mask, scores = mask_of(rollout.lengths), shaped_scores(rollout, self.reward)
        rewards = token_rewards(as_table(rollout.log_ratios, rollout.lengths), scores, mask, coefficient)
        values = as_table(rollout.values, rollout.lengths)
        advantages = gae(rewards, values, mask, gamma=self.reward.gamma, lam=self.reward.lam)[mask]
        returns = advantages + rollout.values
        tokens = {"advantages": whitened(advantages), "returns": returns, "old_values": rollout.values}
        variance = {"val/explained_variance": explained_variance(rollout.values, returns)}
        return Targets(tokens, reward_metrics(rollout, scores, coefficient) | variance)

    def losses(self, logps: Tensor, tokens: Mapping[str, Tensor], answer: Tensor) -> Tensor:
        return losses_of(self.objective, {**tokens, "logps": logps})

    def value_losses(self, values: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        return value_loss(values, tokens["old_values"], tokens["returns"], clip=self.value_clip)
