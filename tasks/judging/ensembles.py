"""How several scores of one answer become one, and how far they, or features, leave a comparison open.

A reward is identified up to a function of the prompt: only differences between answers to one prompt mean something.
So whatever compares members with each other (the worst of them, their spread) takes their scores above a baseline, the
member's mean score of the base policy's samples for the same prompt; and distances of features are distances between
two answers, or from the mean feature of those samples.

Axis letters: A answers, M members, P pairs, d features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tasks.contract import DataError

Floats = npt.NDArray[np.float64]
How = Literal["mean", "worst", "lower_bound", "weighted"]


def combined(scores: Floats, how: str, *, weights: Sequence[float] | None = None, c: float = 0.0) -> Floats:
    """One score of each answer, `(A,)`, of those of all members, `(A, M)`; NaN where one of them is missing.

        mean          (1/M)·Σ_m r_m
        weighted      Σ_m w_m·r_m; the weights are not normalised
        worst         min_m r_m
        lower_bound   mean − c·s,  s² = 1/(M − 1)·Σ_m (r_m − mean)², the unbiased variance over the members

    For `worst` and `lower_bound` the scores are those above each member's baseline.
    """
    if how == "worst":
        return np.asarray(scores.min(axis=1))
    if how == "weighted":
        return np.asarray(scores @ np.asarray(weights, np.float64))
    mean = scores.mean(axis=1)
    return np.asarray(mean - c * scores.std(axis=1, ddof=1) if how == "lower_bound" else mean)


def disagreement(a: Floats, b: Floats) -> Floats:
    """`(P,)`: standard deviation over the members of P(a beats b) = σ(r_m(a) − r_m(b)), of scores `(P, M)`.

    The unbiased variance's root: Σ / (M − 1).
    """
    from scipy.special import expit

    return np.asarray(expit(a - b).std(axis=1, ddof=1))


def covariance_factor(differences: Floats, ridge: float) -> Floats:
    """The lower Cholesky factor L of Σ = λI + Σ_i Δφ_i Δφ_iᵀ, `(d, d)`, of differences `(P, d)`.

    Some texts print this sum as Σ⁻¹; a direction in which no pair differs has the variance λ, and its distance in
    Σ⁻¹ is the largest.
    """
    return np.asarray(np.linalg.cholesky(ridge * np.eye(differences.shape[1]) + differences.T @ differences))


def distance(vectors: Floats, factor: Floats) -> Floats:
    """`(A,)`: ‖v‖ in Σ⁻¹ of vectors `(A, d)`, for Σ = L·Lᵀ: the length of L⁻¹v."""
    from scipy.linalg import solve_triangular

    return np.asarray(np.linalg.norm(solve_triangular(factor, vectors.T, lower=True), axis=0))


def baselines(prompt_ids: Sequence[str], values: Floats) -> dict[str, Floats]:
    """prompt_id → mean of the rows `(A, n)` of its answers without missing numbers. Raises DataError where a prompt has
    none."""
    sums: dict[str, list[Floats]] = {}
    for id, row in zip(prompt_ids, values, strict=True):
        sums.setdefault(id, []).append(row)
    means: dict[str, Floats] = {}
    for id, rows in sums.items():
        known = [row for row in rows if not np.isnan(row).any()]
        if not known:
            raise DataError(f"none of the {len(rows)} base samples for the prompt {id} has a score by every member")
        means[id] = np.mean(known, axis=0)
    return means


def above(values: Floats, prompt_ids: Sequence[str], means: Mapping[str, Floats]) -> Floats:
    """Rows `(A, n)` minus the baseline of their prompt. Raises DataError for a prompt without base samples."""
    missing = {id for id in prompt_ids if id not in means}
    if missing:
        raise DataError(
            f"{len(missing)} of {len(set(prompt_ids))} prompts have no base samples in this ensemble (the first: "
            f"{min(missing)}), and without them its members cannot be compared: give `base_samples` of all prompts "
            "that it is to judge"
        )
    return np.asarray(values - np.array([means[id] for id in prompt_ids]).reshape(values.shape))


def vectors_of(values: Sequence[Any], width: int) -> Floats:
    """`(A, width)`: vectors or numbers, NaN for None."""
    empty = np.full(width, np.nan)
    return np.array([empty if v is None else np.atleast_1d(v) for v in values], np.float64).reshape(len(values), width)
