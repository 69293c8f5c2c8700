"""Sampling of a token: keyed noise, truncation, and log-probabilities.

argmax(scores + Gumbel noise) is a sample of softmax(scores) (Gumbel 1954; Maddison et al., arXiv 1411.0030, §2). The
noise of a token is a pure function of (completion seed, position, token), so samples do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tasks.sampling.requests import Options

GREEDY = 1e-5
"""Temperatures below this mean greedy decoding (vLLM's bound)."""


class Noise:
    """Noise of one completion: words `position·V + token` of Philox-4x64 (Salmon et al. 2011), keyed by its seed."""

    def __init__(self, seed: int) -> None:
        self._words = np.random.Philox(key=seed)

    def words(self, size: int) -> np.ndarray:
        """The `size` words of the next position, `(size,)` uint64."""
        return np.asarray(self._words.random_raw(size))


def gumbel(streams: Sequence[Noise], size: int, device: torch.device) -> Tensor:
    """Standard Gumbel noise of the next position of each stream, `(B, size)` float32."""
    words = np.empty((len(streams), size), np.uint64)
    for row, stream in zip(words, streams, strict=True):
        row[:] = stream.words(size)
    words >>= np.uint64(12)
    uniform = torch.from_numpy(words.view(np.int64)).to(device).double().add_(0.5).mul_(2.0**-52)
    return uniform.log_().neg_().log_().neg_().float()


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


def sampled_tokens(logits: Tensor, streams: Sequence[Noise], options: Options, barred: Tensor | None = None) -> Tensor:
    """One token per row, `(B,)` int64. logits: `(B, V)` float32; barred: `(V,)`, True for tokens never sampled."""
    if barred is not None:
        logits = logits.masked_fill(barred, -torch.inf)
    if options.temperature < GREEDY:
        return logits.argmax(1)
    return truncated(logits, options).add_(gumbel(streams, logits.shape[1], logits.device)).argmax(1)


def logps_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of each token under softmax(logits), `(B,)` float32, nats."""
    return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
