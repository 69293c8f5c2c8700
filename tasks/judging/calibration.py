"""Calibration: whether an oracle that is 80% sure of the winner is right in 80% of its pairs."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.judging.intervals import interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BINS = 10
MARGIN_BINS = 20


class CalibrationErrors(NamedTuple):
    """Gaps between accuracy and mean confidence, in [0, 1]. Noise biases all of them upwards."""

    ece: float
    """Mean gap over the pairs' bins of equal width."""
    ace: float
    """The same over bins of equal numbers of pairs; equal confidences stay in one bin."""
    mce: float
    """Largest gap of a bin of equal width."""


def calibration_errors(confidence: Floats, correct: Floats, bins: int = BINS) -> CalibrationErrors:
    """ECE, ACE and MCE of confidences in the winner, `(M,)` in [½, 1]; correct: `(M,)`, 1, 0 or ½ for a tie.

    Source: ECE and MCE: Guo et al., arXiv 1706.04599, eqs. 3 and 5; ACE: Nixon et al., arXiv 1904.01685, eq. 3, of the
    predicted winner alone.
    """
    (ece, mce), (ace, _) = (
        _mean_and_largest_gap(confidence, correct, place)
        for place in (by_width(confidence, bins), by_mass(confidence, bins))
    )
    return CalibrationErrors(ece, ace, mce)


def by_width(confidence: Floats, bins: int) -> Ints:
    """`(M,)`: the bin of each confidence in [½, 1], of equal width."""
    return np.minimum(((confidence - 0.5) * 2 * bins).astype(np.int64), bins - 1)


def by_mass(confidence: Floats, bins: int) -> Ints:
    """`(M,)`: the bin of each confidence, of equal numbers of pairs as far as equal confidences allow."""
    from scipy.stats import rankdata

    return ((rankdata(confidence) - 0.5) * bins / len(confidence)).astype(np.int64)


def _mean_and_largest_gap(confidence: Floats, correct: Floats, place: Ints) -> tuple[float, float]:
    """|accuracy − mean confidence| of the bins: the mean over pairs of their bin's, and the largest."""
    counts = np.bincount(place)
    gaps = np.abs(np.bincount(place, correct - confidence))
    return float(gaps.sum() / len(place)), float((gaps[counts > 0] / counts[counts > 0]).max())


def reliability_bins(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows of a Report's bins: accuracy by confidence, with its 95% interval over prompts.

    rows: prompt_id, confidence, accuracy of each pair.
    """
    edges = np.linspace(0.5, 1.0, BINS + 1)
    rows = rows.with_columns(bin=pl.Series(by_width(rows["confidence"].to_numpy(), BINS)))
    return [
        _bin("confidence", edges[i : i + 2], part["confidence"], part)
        for i in range(BINS) if len(part := rows.filter(pl.col("bin") == i))
    ]  # fmt: skip


def margin_bins(log_odds: pl.Series) -> list[dict[str, Any]]:
    """Rows of a Report's bins: how many pairs have which margin, in log-odds; 0 is an edge."""
    values = log_odds.to_numpy()
    reach = max(np.ceil(2 * np.abs(values).max()) / 2, 0.5)
    edges = np.linspace(-reach, reach, MARGIN_BINS + 1)
    counts = np.histogram(values, edges)[0].tolist()
    return [
        {"name": "margin", "low": low, "high": high, "count": n}
        for low, high, n in zip(edges[:-1].tolist(), edges[1:].tolist(), counts, strict=True)
    ]  # fmt: skip


def _bin(name: str, edges: Floats, values: pl.Series, part: pl.DataFrame) -> dict[str, Any]:
    by_prompt = part.group_by("prompt_id", maintain_order=True).agg(pl.col("accuracy").mean(), pl.len().alias("pairs"))
    mean = interval(by_prompt["accuracy"].to_numpy(), by_prompt["pairs"].to_numpy(), share=True)
    return {
        "name": name, "low": float(edges[0]), "high": float(edges[1]), "count": len(part), "mean": values.mean(),
        "value": mean.value, "ci_low": mean.low, "ci_high": mean.high,
    }  # fmt: skip
