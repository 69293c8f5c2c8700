"""A loss of `tasks/losses/pairwise/` on pairs of sampled answers, as slopes in the answers' log-probabilities.

S answers, N pairs of their numbers, a and b, of which `wins` says how much is a win of a. Everything is float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tasks.contract import COUPLES_ROWS, Chosen, SpecError
from tasks.rollouts.answers import ComparedPairs
from tasks.rollouts.pairs import PairLabels
from tasks.training.examples import arguments_of, family_of, reward_scale

UNKEYED = {"tasks.contract.Chosen": "in a wiring the loss is a choice; only Python callers pass a name"}


class PairLoss(NamedTuple):
    """The mean loss of N pairs, and what they show."""

    loss: float
    slopes: Tensor
    """`(S,)`: d loss / d S of each answer, S its summed log-probability under the policy."""
    margins: Tensor
    """`(N,)`: how much more the implicit reward of the winner is than that of the loser, in the mean over labels."""
    agreement: Tensor
    """`(N,)`: how much of the pair's label the order of the implicit rewards agrees with; ½ where they are equal."""


def pair_loss(
    loss: Chosen, sums: Tensor, ref_sums: Tensor, lengths: Tensor, pairs: ComparedPairs, wins: Tensor
) -> PairLoss:
    """The loss of each orientation of each pair, weighted by how much of the pair it is, and averaged over pairs.

        1/N · Σ  wins·ℓ(a chosen, b rejected; p) + (1 − wins)·ℓ(b chosen, a rejected; 1 − p)

    sums, ref_sums: `(S,)`, summed log-probabilities of the answers under policy and reference, nats. lengths: `(S,)`,
    their tokens. wins: `(N,)`, see `tasks.rollouts.pairs.wins_of`. Raises ValueError without pairs.
    """
    if not len(pairs.a):
        raise ValueError("there are no pairs to learn from")
    a, b, first, second = torch.from_numpy(pairs.a), torch.from_numpy(pairs.b), wins > 0, wins < 1
    chosen, rejected = torch.cat([a[first], b[second]]), torch.cat([b[first], a[second]])
    weights = torch.cat([wins[first], 1 - wins[second]])
    with torch.enable_grad():
        leaf = sums.detach().clone().requires_grad_()
        filled = {
            "policy_chosen_logps": leaf[chosen], "policy_rejected_logps": leaf[rejected],
            "ref_chosen_logps": ref_sums[chosen], "ref_rejected_logps": ref_sums[rejected],
            "chosen_lengths": lengths.double()[chosen], "rejected_lengths": lengths.double()[rejected],
            "p": torch.cat([pairs.p[first], 1 - pairs.p[second]]),
        }  # fmt: skip
        losses = loss(**{name: filled[name] for name in arguments_of(loss)})
        mean = (losses * weights).sum() / len(a)
        (slopes,) = torch.autograd.grad(mean, leaf)
    rewards = reward_scale(loss) * (sums - ref_sums)
    ahead = rewards[a] - rewards[b]
    agreement = torch.where(ahead == 0, 0.5, torch.where(ahead > 0, wins, 1 - wins))
    return PairLoss(float(mean.detach()), slopes, (2 * wins - 1) * ahead, agreement)


def chosen_pair_loss(loss: Chosen | str, labels: PairLabels) -> Chosen:
    """The loss, which Python callers may name. Raises SpecError for one that pairs of sampled answers cannot fill."""
    if not isinstance(loss, Chosen):
        loss = Chosen("losses/pairwise", loss, {})
    if problem := family_of(loss).mismatch(arguments_of(loss), ("Policy",), (), ("ref",), ("ref",)):
        raise SpecError(f"the loss '{loss.name}' {problem}")
    if labels == "soft" and loss.companion(COUPLES_ROWS) is not None:
        raise SpecError(
            f"the loss '{loss.name}' couples the pairs of a batch, and `labels: soft` has each of them in both "
            "orientations: choose `labels: sampled`, or a loss that takes each pair by itself"
        )
    return loss
