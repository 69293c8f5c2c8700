"""Whether a token's importance weight is its own, or its answer's. Pure."""

from typing import Literal

import torch
from torch import Tensor

from tasks.losses import require_one_shape

Importance = Literal["token", "sequence"]


def answer_ratio_logps(logps: Tensor, old_logps: Tensor, answer: Tensor) -> Tensor:
    """Log-probabilities whose ratio to `old_logps` is, at every token, the geometric mean of the answer's ratios.

        log π_old(token) + mean over the answer of (log π − log π_old),   `(M,)` nats

    An objective of tokens that reads them in place of `logps` is GSPO's: it clips an answer as a whole, and the
    gradient of a token's loss goes evenly through all tokens of its answer, so that the sum over an answer of n tokens
    has n times the gradient of the mean log-ratio. Means of many tokens hardly move, so the bounds of clipping are far
    narrower than for tokens: 3e-4 below and 4e-4 above.

    answer: `(M,)`, the number of each token's answer, from 0.

    Source: Zheng et al. (GSPO), arXiv 2507.18071, eq. 5 to 7.
    """
    require_one_shape(logps=logps, old_logps=old_logps, answer=answer)
    lengths = torch.bincount(answer)
    sums = logps.new_zeros(len(lengths)).index_add(0, answer, logps - old_logps)
    return old_logps + (sums / lengths.clamp(min=1))[answer]
