"""Noise keyed by a pair of draws: independent of the table's order, the machine and library versions."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Words = npt.NDArray[np.uint64]


def uniform(seed: int, first: Any, second: Any) -> npt.NDArray[np.float64]:
    """`(M,)` numbers in [0, 1), determined by the seed and two ids each (Arrow or polars strings without nulls)."""
    state = np.full(len(first), seed & (2**64 - 1), np.uint64)
    for ids in (first, second):
        for words in _words(ids).T:
            state = _mix(state ^ words)
        state = _mix(state + np.uint64(0x9E3779B97F4A7C15))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _words(ids: Any) -> Words:
    """`(M, W)`: the ids' UTF-8 bytes, padded with zeros, as little-endian words."""
    array: Any = (ids.to_arrow() if hasattr(ids, "to_arrow") else ids).cast(pa.large_string())
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)
    lengths = np.diff(offsets)
    width = max(8, int(-(-lengths.max(initial=0) // 8) * 8))
    columns = np.arange(width)
    inside = columns < lengths[:, None]
    out = np.zeros((len(array), width), np.uint8)
    out[inside] = data[(offsets[:-1, None] + columns)[inside]]
    return out.view("<u8").astype(np.uint64)


def _mix(x: Words) -> Words:
    """Finalizer of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
