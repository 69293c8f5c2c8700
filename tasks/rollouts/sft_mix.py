"""Demonstrations mixed into PPO's updates, so that what was learnt from them is not lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.contract import Workspace
from tasks.kinds import Demonstrations, Policy
from tasks.rollouts.networks import Networks
from tasks.rollouts.noise import DEMONSTRATIONS, shuffled
from tasks.template import template_digest
from tasks.training.batches import micro_batches
from tasks.training.rows import Ints, Rows, rows_of
from tasks.training.tokens import with_tokens

Average = Literal["token", "sequence"]


@dataclass(frozen=True)
class SftMix:
    """−γ·mean log π(demonstration), added to every update's loss (Ouyang et al., arXiv 2203.02155, eq. 2)."""

    rows: Rows
    coefficient: float
    batch: int
    average: Average
    seed: int

    def add_gradients(self, networks: Networks, step: int) -> float:
        """Add the gradient of optimizer step `step`'s demonstrations to the policy's; their loss, without γ."""
        part = self._part(step)
        count = int(self.rows.answers.lengths[part].sum()) if self.average == "token" else len(part)
        loss = 0.0
        for batch in micro_batches(self.rows, part, networks.shape):
            with networks.computing():
                share = -networks.plain(networks.inputs(batch)).double().sum() / count
            (self.coefficient * share).backward()
            loss += float(share.detach())
        return loss

    def _part(self, step: int) -> Ints:
        """Consecutive pieces of one seeded shuffle per pass."""
        n = len(self.rows)
        places = range(step * self.batch, (step + 1) * self.batch)
        orders = {turn: shuffled(n, self.seed, DEMONSTRATIONS, turn) for turn in {p // n for p in places}}
        return np.array([orders[p // n][p % n] for p in places], np.int64)


def make_sft_mix(
    demonstrations: Demonstrations,
    policy: Policy,
    coefficient: float,
    batch: int,
    average: Average,
    seed: int,
    longest: int | None,
    work: Workspace,
) -> SftMix:
    """Demonstrations with the ids of the policy's template; rows that cannot be read are skipped and counted."""
    done = with_tokens(demonstrations, policy, longest)
    log = done.log("demonstrations", work, max_skipped=1)
    table = log.check(Demonstrations.of(done.table, {"template": template_digest(policy)}))
    return SftMix(rows_of(table, policy), coefficient, batch, average, seed)
