"""Density ratios of answers against their length: a slope, and the means of groups of lengths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.judging.intervals import Interval, interval
from tasks.judging.jackknife import jackknife

MOST_BINS = 10


def slope_of(rows: pl.DataFrame) -> Interval:
    """Slope of the least-squares line of `log_ratio` on `length`, by leaving out one prompt at a time; no value where
    all answers have one length."""
    sums = rows.group_by("prompt_id", maintain_order=True).agg(
        n=pl.len(), x=pl.col("length").sum(), y=pl.col("log_ratio").sum(),
        xy=(pl.col("length") * pl.col("log_ratio")).sum(), xx=(pl.col("length") ** 2).sum(),
    )  # fmt: skip
    table = sums.drop("prompt_id").to_numpy().astype(np.float64)

    def slope(weights: npt.NDArray[np.float64]) -> float:
        n, x, y, xy, xx = weights @ table
        spread = n * xx - x * x
        return float((n * xy - x * y) / spread) if spread > 1e-9 * max(n * xx, 1.0) else float("nan")

    return jackknife(slope, np.ones(len(table)))


def length_bins(name: str, rows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Bins of `length` with about equally many answers: their mean length and mean `log_ratio`, with its interval over
    prompts. Equal lengths are in one bin, so that few different lengths have few bins."""
    lengths = rows["length"].to_numpy()
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, MOST_BINS + 1), method="lower"))
    edges = np.append(edges[:-1], edges[-1] + 1.0) if len(edges) > 1 else np.array([edges[0], edges[0] + 1.0])
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        inside = rows.filter((pl.col("length") >= low) & (pl.col("length") < high))
        by_prompt = inside.group_by("prompt_id", maintain_order=True).agg(pl.col("log_ratio").mean(), n=pl.len())
        mean = interval(by_prompt["log_ratio"].to_numpy(), by_prompt["n"].to_numpy(), share=False)
        yield {
            "name": name, "low": low, "high": high, "count": len(inside),
            "mean": float(inside["length"].to_numpy().mean()), "value": mean.value, "ci_low": mean.low,
            "ci_high": mean.high,
        }  # fmt: skip
