"""On-policy distillation: the student's own answers, each token priced by its distance from the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tasks.advantages.gae import gae
from tasks.contract import Chosen, DataError
from tasks.kinds import Policy
from tasks.rollouts.advantages import as_table, mask_of
from tasks.rollouts.method import Method, Rollout, Targets
from tasks.rollouts.methods.shared import clip_of, losses_of
from tasks.rollouts.networks import check_tokens
from tasks.rollouts.normalisation import Normalisation
from tasks.training.model import vocabulary_of

Estimator = Literal["sampled", "full"]


@dataclass(frozen=True)
class Distillation(Method):
    """See `tasks.distillation.distill`. The loop's reference is the teacher."""

    estimator: Estimator
    discount: float
    objective: Chosen
    loss_over: Normalisation

    name = "distill"
    feedback = "none"

    @property
    def reads_divergences(self) -> bool:
        return self.estimator == "full"

    @property
    def normalisation(self) -> Normalisation:
        return self.loss_over

    @property
    def clip(self) -> tuple[float, float] | None:
        return clip_of(self.objective)

    def targets(self, rollout: Rollout, coefficient: float) -> Targets:
        prices = rollout.log_ratios if rollout.divergences is None else rollout.divergences
        costs = discounted_costs(prices, rollout.lengths, self.discount)
        if rollout.divergences is not None:
            costs = costs - prices  # of this token the loss has the exact divergence, with its own gradient
        return Targets({"advantages": costs.mean() - costs}, {"objective/reverse_kl": float(prices.mean())})

    def losses(self, logps: Tensor, tokens: Mapping[str, Tensor], answer: Tensor) -> Tensor:
        losses = losses_of(self.objective, {**tokens, "logps": logps})
        return losses if self.estimator == "sampled" else losses + tokens["divergences"]


def check_teacher(student: Policy, teacher: Policy) -> None:
    """Refuse a teacher of other tokens, or of fewer ids than the student can sample. Raises DataError."""
    check_tokens(student, teacher, "teacher")
    ids, own = vocabulary_of(teacher), vocabulary_of(student)
    if ids < own:
        raise DataError(
            f"`teacher` at {teacher.path} reads {ids} ids, and the student samples {own}: its head is padded further. "
            "Give a teacher with at least as many rows, or cut the student's embedding to the tokenizer's size"
        )


def discounted_costs(prices: Tensor, lengths: Tensor, discount: float) -> Tensor:
    """`(M,)`: Σ_{s ≥ t} γ^{s−t}·price_s over the tokens of the same answer. prices: `(M,)`; lengths: `(S,)`."""
    mask, table = mask_of(lengths), as_table(prices, lengths)
    return gae(table, torch.zeros_like(table), mask, gamma=discount, lam=1.0)[mask]
