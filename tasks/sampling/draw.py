"""Sampling of a token: truncation, keyed noise, and log-probabilities.

argmax(scores + Gumbel noise) is a sample of softmax(scores) (Gumbel 1954; Maddison et al., arXiv 1411.0030, §2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.sampling.noise import Noise, gumbel
from tasks.sampling.requests import Options

GREEDY = 1e-5
"""Temperatures below this mean greedy decoding (vLLM's bound)."""


def truncated(logits: Tensor, options: Options) -> Tensor:
    """Scores after temperature, top-k and top-p (in this order).

    logits: `(B, V)` float32. Returns `(B, V)`, −inf for excluded tokens; ties with the last included token stay in.
    """
    scores = logits / options.temperature
    if 0 < options.top_k < scores.shape[1]:
        last = scores.topk(options.top_k, dim=1).values[:, -1:]
        scores = scores.masked_fill(scores < last, -torch.inf)
    if options.top_p < 1:
        values, order = scores.sort(dim=1, descending=True, stable=True)
        before = values.softmax(1).cumsum(1) - values.softmax(1)
        excluded = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, before >= options.top_p)
        scores = scores.masked_fill(excluded, -torch.inf)
    return scores


def noisy_scores(
    logits: Tensor, streams: Sequence[Noise], positions: Sequence[int], options: Options, barred: Tensor | None = None
) -> Tensor:
    """Scores whose argmax is the sampled token of each row, `(B, V)` float32.

    logits: `(B, V)` float32; positions: of the sampled tokens within their completions; barred: `(V,)`, True for tokens
    that are never sampled.
    """
    if barred is not None:
        logits = logits.masked_fill(barred, -torch.inf)
    if options.temperature < GREEDY:
        return logits
    return truncated(logits, options).add_(gumbel(streams, positions, logits.shape[1], logits.device))


def barred_mask(ids: Sequence[int], size: int, device: torch.device) -> Tensor | None:
    """`(size,)`, True for the ids that are never sampled; None if there are none."""
    index = torch.tensor(ids, dtype=torch.long, device=device)
    return torch.zeros(size, dtype=torch.bool, device=device).index_fill(0, index, True) if ids else None


def logps_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of each token under softmax(logits), `(B,)` float32, nats."""
    return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
