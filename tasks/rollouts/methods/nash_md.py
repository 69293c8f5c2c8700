"""Nash-MD: a policy plays a game of preferences against a geometric mixture of itself and its reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tasks.advantages.leave_one_out import leave_one_out
from tasks.advantages.payoffs import Payoff, mean_payoffs, payoffs
from tasks.contract import Chosen
from tasks.rollouts.answers import Answers
from tasks.rollouts.method import Method, Opponent, Rollout, Targets
from tasks.rollouts.methods.shared import clip_of, losses_of
from tasks.rollouts.normalisation import Normalisation
from tasks.rollouts.pairs import pairs_against
from tasks.training.rows import Ints

Baseline = Literal["leave_one_out", "even"]


@dataclass(frozen=True)
class NashMd(Method):
    """See `tasks.online.nash_md`."""

    payoff: Payoff
    baseline: Baseline
    against: Opponent
    objective: Chosen
    order: Literal["both", "random"]

    name = "nash_md"
    feedback = "comparisons"

    @property
    def opponent(self) -> Opponent:
        return self.against

    @property
    def orders(self) -> Literal["both", "random"]:
        return self.order

    @property
    def normalisation(self) -> Normalisation:
        return "sum"

    @property
    def clip(self) -> tuple[float, float]:
        return clip_of(self.objective)

    def pairs(self, answers: Answers) -> tuple[Ints, Ints]:
        return pairs_against(answers.groups, answers.by_opponent)

    def targets(self, rollout: Rollout, coefficient: float) -> Targets:
        """Each token has its answer's advantage, so that the first step's gradient is that of the sequence form
        (τ·Σ_t log π/π_ref − (payoff − baseline))·log π(y), the bracket without a gradient."""
        assert rollout.pairs is not None
        pairs, count = rollout.pairs, len(rollout.answers)
        earned = mean_payoffs(payoffs(pairs.p, self.payoff), torch.from_numpy(pairs.a), count)
        rewards = earned - coefficient * rollout.sums(rollout.log_ratios)
        groups = torch.from_numpy(rollout.answers.groups)
        advantages = leave_one_out(rewards, groups) if self.baseline == "leave_one_out" else rewards
        metrics = {
            "objective/win_rate": float(pairs.p.mean()), "objective/payoff": float(earned.mean()),
            "objective/non_score_reward": -coefficient * rollout.kl, "objective/rlhf_reward": float(rewards.mean()),
        }  # fmt: skip
        return Targets({"advantages": rollout.spread(advantages)}, metrics)

    def losses(self, logps: Tensor, tokens: Mapping[str, Tensor], answer: Tensor) -> Tensor:
        return losses_of(self.objective, {**tokens, "logps": logps})
