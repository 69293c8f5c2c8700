"""Losses: pure functions of tensors, one folder per family. The trainer fills their arguments by name.

`tasks/families.py` describes every tensor that a loss may name. In the formulas of `pairwise/`, for a chosen answer y_w
of n_w tokens and a rejected answer y_l of n_l tokens:

    S_w = log π(y_w)      S_l = log π(y_l)                                        summed over an answer's tokens
    a = S_w − log π_ref(y_w)      b = S_l − log π_ref(y_l)      d = a − b         log-ratios and their difference

σ is the logistic function. Where a formula has a kink, the gradient there is 0, as `torch.relu` has it. This file holds
what several losses share: the check of shapes, the log-ratios, the ratio to an older policy and two likelihoods.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class LogRatios(NamedTuple):
    """What a policy changed of its reference, `(B,)` each, nats."""

    chosen: Tensor
    """a: log π(y_w) − log π_ref(y_w)."""
    rejected: Tensor
    """b: log π(y_l) − log π_ref(y_l)."""

    @property
    def delta(self) -> Tensor:
        """d = a − b."""
        return self.chosen - self.rejected

    def normed(self, norm: Literal["sum", "length"], chosen_lengths: Tensor, rejected_lengths: Tensor) -> Tensor:
        """The difference of the log-ratios, of whole answers or per token: d, or a/n_w − b/n_l."""
        if norm == "sum":
            return self.delta
        return self.chosen / chosen_lengths - self.rejected / rejected_lengths


def require_one_shape(**tensors: Tensor) -> None:
    """Refuse tensors that torch would broadcast; the message has all names and shapes. Raises ValueError."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"these must have one shape: {', '.join(f'{n} {s}' for n, s in shapes.items())}")


def pair_log_ratios(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    **others: Tensor,
) -> LogRatios:
    """The log-ratios of pairs; `others` are further arguments of the loss, which must have the same shape.

    Raises ValueError where shapes differ.
    """
    require_one_shape(
        policy_chosen_logps=policy_chosen_logps, policy_rejected_logps=policy_rejected_logps,
        ref_chosen_logps=ref_chosen_logps, ref_rejected_logps=ref_rejected_logps, **others,
    )  # fmt: skip
    return LogRatios(policy_chosen_logps - ref_chosen_logps, policy_rejected_logps - ref_rejected_logps)


LARGEST_LOG_RATIO = 20.0
"""Nats at which a log-ratio is held before `exp`: e^20 = 5e8 is far beyond any ratio that means something."""


def clamped_ratio(logps: Tensor, old_logps: Tensor) -> Tensor:
    """ρ = π / π_old of tokens or answers, any shape, with the log-ratio held within ±20 nats.

    So ρ is at most 5e8 and never infinite: a loss that picks another term than ρ's keeps a finite gradient, where
    0·∞ would be NaN. Beyond the bounds ρ has no gradient.

    Source: OpenRLHF's `PolicyLoss`.
    """
    return torch.exp((logps - old_logps).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))


def label_cross_entropy(logits: Tensor, p: Tensor | float) -> Tensor:
    """−p·log σ(z) − (1 − p)·log σ(−z): the cost of the log-odds z where the label holds with probability p."""
    return -p * logsigmoid(logits) - (1 - p) * logsigmoid(-logits)


def ranking_cross_entropy(strengths: Tensor, target_scores: Tensor, mask: Tensor) -> Tensor:
    """−log P(the order of the target scores) under Plackett-Luce: one after the other, the best of those left is drawn
    with probability ∝ exp(strength).

        Σ over answers i of  log Σ_{j = i or s_j < s_i} exp(x_j)  −  x_i

    Equal scores are not compared: each of two tied answers is drawn from itself and those that are worse. So the order
    of the rows decides nothing, ties alone cost nothing, and without ties this is the likelihood of the ranking.

    Args:
        strengths: x, `(B, K)`; values where there is no answer are ignored.
        target_scores: s, `(B, K)`; higher is better.
        mask: which of the K places hold an answer, `(B, K)` bool.

    Returns: `(B,)`, the sum over the K − 1 draws (some code divides by K − 1).
    """
    require_one_shape(strengths=strengths, target_scores=target_scores, mask=mask)
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    left = itself | compared(target_scores, mask)
    total = torch.where(left, strengths[:, None, :], -torch.inf).logsumexp(dim=2)
    return torch.where(mask, total - strengths, 0).sum(dim=1)


def compared(target_scores: Tensor, mask: Tensor) -> Tensor:
    """Which pairs of a prompt's answers have an order: `(B, K, K)` bool, [b, i, j] where i is better than j."""
    both = mask[:, :, None] & mask[:, None, :]
    return both & (target_scores[:, :, None] > target_scores[:, None, :])
