"""Methods that learn from pairs of sampled answers with a loss of pairs: online DPO, and XPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tasks.contract import Chosen
from tasks.rollouts.answers import Answers, ComparedPairs
from tasks.rollouts.method import Method, Opponent, Rollout, Targets
from tasks.rollouts.pair_loss import pair_loss
from tasks.rollouts.pairs import (
    PairLabels,
    WhichPairs,
    best_against_worst,
    pairs_against,
    pairs_of_groups,
    wins_of,
)
from tasks.training.rows import Ints


@dataclass(frozen=True)
class OnlineDpo(Method):
    """See `tasks.online.online_dpo`."""

    loss: Chosen
    labels: PairLabels
    which: WhichPairs
    order: Literal["both", "random"]
    seed: int
    """Of sampled labels."""

    name = "online_dpo"
    feedback = "comparisons"
    couples = True

    @property
    def orders(self) -> Literal["both", "random"]:
        return self.order

    def pairs(self, answers: Answers) -> tuple[Ints, Ints]:
        return pairs_of_groups(answers.groups)

    def targets(self, rollout: Rollout, coefficient: float) -> Targets:
        pairs = self._learnt(rollout)
        return Targets({}, {"objective/pairs": float(len(pairs.a))})

    def couple(self, rollout: Rollout, part: Ints, logps: Tensor) -> tuple[Tensor, dict[str, float]]:
        assert rollout.ref_logps is not None
        pairs, requests = self._learnt(rollout), rollout.answers.requests
        pairs = pairs.take(np.flatnonzero(np.isin(pairs.a, part)))
        if not len(pairs.a):  # ties alone, or none that the oracle answered
            return torch.zeros_like(logps), {"loss/policy": 0.0, "rewards/margins": 0.0, "rewards/accuracies": 0.5}
        first, second = ([requests[i].seed for i in rows] for rows in (pairs.a, pairs.b))
        wins = wins_of(self.labels, pairs.p, first, second, self.seed)
        sums, ref_sums = rollout.sums(logps), rollout.sums(rollout.ref_logps)
        learnt = pair_loss(self.loss, sums, ref_sums, rollout.lengths, pairs, wins)
        metrics = {
            "loss/policy": learnt.loss, "rewards/margins": float(learnt.margins.mean()),
            "rewards/accuracies": float(learnt.agreement.mean()),
        }  # fmt: skip
        return rollout.spread(learnt.slopes), metrics

    def _learnt(self, rollout: Rollout) -> ComparedPairs:
        """Those of the compared pairs that are learnt from."""
        assert rollout.pairs is not None
        pairs = rollout.pairs
        if self.which == "all":
            return pairs
        return pairs.take(best_against_worst(pairs.a, pairs.b, pairs.p, rollout.answers.groups))


@dataclass(frozen=True)
class Xpo(OnlineDpo):
    """See `tasks.online.xpo`."""

    alpha: float
    k_ref: int
    name = "xpo"

    @property
    def opponent(self) -> Opponent:
        return Opponent(self.k_ref, mixture=1.0, is_learnt=True)

    def pairs(self, answers: Answers) -> tuple[Ints, Ints]:
        return pairs_against(answers.groups, answers.by_opponent)

    def targets(self, rollout: Rollout, coefficient: float) -> Targets:
        assert rollout.pairs is not None
        rate = {"objective/win_rate": float(rollout.pairs.p.mean())}
        return Targets({}, {**super().targets(rollout, coefficient).metrics, **rate})

    def couple(self, rollout: Rollout, part: Ints, logps: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The slopes of the pairs' loss, and α of the mean log-probability of the reference's answers."""
        slopes, metrics = super().couple(rollout, part, logps)
        of_ref = np.zeros(len(rollout.answers))
        of_ref[part[rollout.answers.by_opponent[part]]] = 1
        share = torch.from_numpy(of_ref / max(1.0, of_ref.sum()))  # the oracle may have answered nothing about them
        bonus = float((share * rollout.sums(logps)).sum())
        metrics |= {"loss/policy": metrics["loss/policy"] + self.alpha * bonus, "logps/reference_answers": bonus}
        return slopes + self.alpha * rollout.spread(share), metrics
