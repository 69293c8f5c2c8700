"""The noise of `noise.py` as one kernel of Triton, for GPUs. Tests run it in Triton's interpreter on the CPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROUNDS = tl.constexpr(10)
MULTIPLIER_0, MULTIPLIER_1 = tl.constexpr(0xD2E7470EE14C6C93), tl.constexpr(0xCA5A826395121157)
KEY_STEP_0, KEY_STEP_1 = tl.constexpr(0x9E3779B97F4A7C15), tl.constexpr(0xBB67AE8584CAA73B)
COUNTERS = 256
"""Counters of Philox per program; each gives four words."""


def gumbel_by_triton(seeds: Tensor, positions: Tensor, size: int) -> Tensor:
    """Standard Gumbel noise, `(B, size)` float32, on the device of `seeds` and `positions`, `(B,)` int64 each."""
    noise = torch.empty(len(seeds), size, device=seeds.device)
    grid = (len(seeds), triton.cdiv(size // 4 + 2, COUNTERS))
    _gumbel[grid](noise, seeds, positions, size, COUNTERS=COUNTERS)
    return noise


@triton.jit  # type: ignore[untyped-decorator]
def _gumbel(noise, seeds, positions, size, COUNTERS: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    first = tl.load(positions + row) * size
    block = (first >> 2) + tl.program_id(1) * COUNTERS + tl.arange(0, COUNTERS)
    key0 = tl.load(seeds + row).to(tl.uint64)
    key1 = key0 * 0
    c0 = (block + 1).to(tl.uint64)  # NumPy increments the counter before it makes words
    c1 = c0 * 0
    c2 = c0 * 0
    c3 = c0 * 0
    for _ in tl.static_range(ROUNDS):
        high0 = tl.umulhi(c0, MULTIPLIER_0)
        high1 = tl.umulhi(c2, MULTIPLIER_1)
        low0 = c0 * MULTIPLIER_0
        low1 = c2 * MULTIPLIER_1
        c0 = high1 ^ c1 ^ key0
        c1 = low1
        c2 = high0 ^ c3 ^ key1
        c3 = low0
        key0 += KEY_STEP_0
        key1 += KEY_STEP_1
    token = block * 4 - first
    _store(noise + row * size, token, c0, size)
    _store(noise + row * size, token + 1, c1, size)
    _store(noise + row * size, token + 2, c2, size)
    _store(noise + row * size, token + 3, c3, size)


@triton.jit
def _store(noise, token, word, size):  # type: ignore[no-untyped-def]
    uniform = ((word >> 12).to(tl.float64) + 0.5) * 2.220446049250313e-16  # 2^-52
    gumbel = -tl.log(-tl.log(uniform))
    tl.store(noise + token, gumbel.to(tl.float32), mask=(token >= 0) & (token < size))
