"""Keyed Gumbel noise: a pure function of (seed of a completion, position, token), so samples depend on no batch.

The random words are those of Philox-4x64-10 (Salmon et al., SC 2011), in the order in which NumPy counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Noise:
    """Noise of one completion: word `position·V + token` of Philox, keyed by the completion's seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._philox: Any = None
        self._next = 0

    def words(self, position: int, size: int) -> np.ndarray:
        """The `size` words of a position, `(size,)` uint64. Consecutive positions are fastest."""
        first = position * size
        if self._philox is None or first != self._next:
            self._philox = np.random.Philox(key=self.seed, counter=first // 4)
            self._philox.random_raw(first % 4)
        self._next = first + size
        return np.asarray(self._philox.random_raw(size))


def gumbel(streams: Sequence[Noise], positions: Sequence[int], size: int, device: torch.device) -> Tensor:
    """Standard Gumbel noise of one position of each stream, `(B, size)` float32."""
    if device.type == "cuda":
        from tasks.sampling.noise_kernel import gumbel_by_triton

        seeds = torch.tensor([stream.seed for stream in streams], device=device)
        return gumbel_by_triton(seeds, torch.tensor(positions, device=device), size)
    words = np.empty((len(streams), size), np.uint64)
    for row, stream, position in zip(words, streams, positions, strict=True):
        row[:] = stream.words(position, size)
    words >>= np.uint64(12)
    uniform = torch.from_numpy(words.view(np.int64)).double().add_(0.5).mul_(2.0**-52)
    return uniform.log_().neg_().log_().neg_().float()
