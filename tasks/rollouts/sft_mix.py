"""Demonstrations mixed into PPO's updates, so that what was learnt from them is not lost."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.contract import SpecError, Workspace
from tasks.kinds import Demonstrations, Policy
from tasks.ranks import add_up, this_rank
from tasks.rollouts.networks import Networks, micro_batches_of
from tasks.rollouts.noise import DEMONSTRATIONS, shuffled_piece
from tasks.rollouts.settings import SftConfig
from tasks.template import template_digest
from tasks.training.model import positions_of
from tasks.training.rows import Ints, Rows, rows_of
from tasks.training.tokens import with_tokens


@dataclass(frozen=True)
class SftMix:
    """−γ·mean log π(demonstration), added to every update's loss (Ouyang et al., arXiv 2203.02155, eq. 2)."""

    rows: Rows
    config: SftConfig
    seed: int

    def add_gradients(self, networks: Networks, step: int) -> Tensor:
        """Add the gradient of optimizer step `step`'s demonstrations to the policy's; their loss, without γ.

        The loss lies on the networks' device. Of several ranks each adds that of its share of the demonstrations.
        """
        part = self._part(step)
        count = int(self.rows.answers.lengths[part].sum()) if self.config.sft_average == "token" else len(part)
        loss = torch.zeros((), dtype=torch.float64, device=networks.device.torch_device)
        for batch in micro_batches_of(self.rows, part, networks.shape, this_rank()):
            with networks.computing():
                share = -networks.plain(networks.inputs(batch)).double().sum() / count
            (self.config.sft * share).backward()
            loss += share.detach()
        add_up(loss)
        return loss

    def _part(self, step: int) -> Ints:
        piece = shuffled_piece(len(self.rows), self.config.sft_batch, step, self.seed, DEMONSTRATIONS)
        return np.array([row for _, row in piece], np.int64)


def make_sft_mix(
    demonstrations: Demonstrations | None, policy: Policy, config: SftConfig, seed: int, work: Workspace
) -> SftMix | None:
    """Demonstrations with the ids of the policy's template; rows that cannot be read are skipped and counted.

    None where there are none. Raises SpecError for demonstrations without a coefficient, or one without them.
    """
    if (demonstrations is None) != (config.sft == 0):
        raise SpecError("demonstrations and their coefficient `sft` (above 0) come together")
    if demonstrations is None:
        return None
    done = with_tokens(demonstrations, policy, positions_of(policy))
    log = done.log("demonstrations", work, max_skipped=1)
    table = log.check(Demonstrations.of(done.table, {"template": template_digest(policy)}))
    return SftMix(rows_of(table, policy), config, seed)
