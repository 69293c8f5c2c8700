"""Keyed Gumbel noise: a pure function of (seed of a completion, position, token), so samples depend on no batch.

The random words are those of Philox-4x64-10 (Salmon et al., SC 2011) as NumPy counts them. On a CPU NumPy makes them
row by row; on a GPU they are computed there, in torch's integer arithmetic, which wraps around as unsigned 64 bits do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
LOW = 2**32 - 1
WORDS_AT_ONCE = 1 << 24
"""Of a pass on a GPU: 128 MiB."""


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
        seeds = torch.tensor([stream.seed for stream in streams], device=device)
        places = torch.tensor(positions, device=device)
        rows = max(1, WORDS_AT_ONCE // size)
        parts = zip(seeds.split(rows), places.split(rows), strict=True)
        return torch.cat([_compiled()(seed, place, size) for seed, place in parts])
    words = np.empty((len(streams), size), np.uint64)
    for row, stream, position in zip(words, streams, positions, strict=True):
        row[:] = stream.words(position, size)
    words >>= np.uint64(12)
    return _gumbel_of(torch.from_numpy(words.view(np.int64)))


def gumbel_by_torch(seeds: Tensor, positions: Tensor, size: int) -> Tensor:
    """The same noise by torch alone, on the device of `seeds` and `positions`, `(B,)` int64 each."""
    first = positions * size
    blocks = (first >> 2)[:, None] + torch.arange(size // 4 + 2, device=seeds.device)
    words = torch.stack(_philox(blocks + 1, seeds[:, None]), 2).flatten(1)
    columns = (first & 3)[:, None] + torch.arange(size, device=seeds.device)
    return _gumbel_of((words.gather(1, columns) >> 12) & (2**52 - 1))


@cache
def _compiled() -> Any:
    """Fused, because hundreds of integer operations on the whole vocabulary would each read and write memory."""
    return torch.compile(gumbel_by_torch, dynamic=True)


def _gumbel_of(bits: Tensor) -> Tensor:
    """Gumbel noise of 52 random bits, float32: −log(−log u) of the middle u of their interval."""
    return bits.double().add_(0.5).mul_(2.0**-52).log_().neg_().log_().neg_().float()


def _philox(counter: Tensor, key: Tensor) -> list[Tensor]:
    """The four words of each counter below 2^63, int64 bit patterns."""
    c = [counter, torch.zeros_like(counter), torch.zeros_like(counter), torch.zeros_like(counter)]
    low, high = key, 0
    for _ in range(ROUNDS):
        (high0, low0), (high1, low1) = (_product(c[i], m) for i, m in zip((0, 2), MULTIPLIERS, strict=True))
        c = [high1 ^ c[1] ^ low, low1, high0 ^ c[3] ^ high, low0]
        low, high = low + _signed(KEY_STEPS[0]), _signed(high + KEY_STEPS[1])
    return c


def _product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """The upper and the lower 64 bits of the unsigned product, from products of 32-bit halves."""
    a0, a1, b0, b1 = a & LOW, _upper(a), b & LOW, b >> 32
    p00, p01, p10 = a0 * b0, a0 * b1, a1 * b0
    carry = (_upper(p00) + (p01 & LOW) + (p10 & LOW)) >> 32
    return a1 * b1 + _upper(p01) + _upper(p10) + carry, a * _signed(b)


def _upper(a: Tensor) -> Tensor:
    return (a >> 32) & LOW


def _signed(value: int) -> int:
    """The int64 with the lower 64 bits of `value`."""
    return (value + 2**63) % 2**64 - 2**63
