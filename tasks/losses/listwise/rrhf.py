"""RRHF: answers are put in the order of their scores by their length-normalised log-probabilities."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import require_one_shape


def rrhf(
    policy_logps: Tensor,
    lengths: Tensor,
    target_scores: Tensor,
    mask: Tensor,
    *,
    rank_weight: Annotated[float, Bounds(min=0)] = 1.0,
    length_norm: Literal["own", "longest"] = "own",
    average: Literal["answer", "token"] = "answer",
) -> Tensor:
    """Where a worse answer has the higher log-probability per token, lowers it and raises the better one's.

    With p_i = log π(y_i) / |y_i|, r_i the score of answer i, and b the answer with the highest score:

        loss = w · Σ over pairs with r_i < r_j of max(0, p_i − p_j)  +  CE(y_b)

        answer: CE = −log π(y_b)                token: CE = −log π(y_b) / |y_b|
        own:    |y_i| = tokens of y_i           longest: |y_i| = tokens of the prompt's longest answer, for all i

    There is no reference and no margin: only the order of the scores counts, and answers in the right order ask for
    nothing but the likelihood of the best. Equal scores make no pair; of several best ones the first is b. Write-ups
    with one minus sign in front of both terms turn the hinge round: it would push answers into the wrong order.

    The paper sums both terms and normalises by each answer's own length (the defaults). The authors' code replaces
    the ignored labels before it counts them, so it divides every answer to a prompt by one padded length (`longest`,
    but for the prompt's tokens, which it counts too) and takes a mean over positions for CE (`token`, likewise).

    Args:
        rank_weight: w, weight of the ranking term against the likelihood of the best.
        length_norm: what a log-probability is divided by before it is compared.
        average: the likelihood of the best answer, as a whole or per token.

    Source: Yuan et al., arXiv 2304.05302, equations 1 to 5; the reference code's `RRHFTrainer`.
    Paper: lr 2e-5, rank_weight 1, 3 epochs, batch 64, cosine, 3% warm-up (the authors' train.sh).
    """
    require_one_shape(policy_logps=policy_logps, lengths=lengths, target_scores=target_scores, mask=mask)
    real = lengths.masked_fill(~mask, 1)
    p = policy_logps / (real if length_norm == "own" else real.amax(dim=1, keepdim=True))
    both = mask[:, :, None] & mask[:, None, :]
    worse = both & (target_scores[:, :, None] < target_scores[:, None, :])
    wrong = torch.relu(p[:, :, None] - p[:, None, :])
    rank = torch.where(worse, wrong, 0).sum(dim=(1, 2))
    best = target_scores.masked_fill(~mask, -torch.inf).argmax(dim=1, keepdim=True)
    likelihood = policy_logps / real if average == "token" else policy_logps
    return rank_weight * rank - likelihood.gather(1, best)[:, 0]
