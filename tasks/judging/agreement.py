"""Agreement of annotators: accuracy, Cohen's and Fleiss' kappa, Krippendorff's alpha, with intervals over prompts.

Verdicts are an array `(M, J)` of M pairs by J annotators (people or oracles): 1: the first answer wins, −1: the second
wins, 0: a tie, which is a verdict of its own, and NaN: none was given.

scikit-learn, statsmodels and `krippendorff` compute the values. Their intervals come from thousands of resamples, for
which the same formulas stand here as functions of counts, over many resamples at once; a test holds both equal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.contract import DataError
from tasks.judging.intervals import Interval, interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

VERDICTS = (-1.0, 0.0, 1.0)
RESAMPLES = 2000
"""Resamples of the prompts behind an interval."""
DEFINED = 0.95
"""Share of the resamples that must have a value; below it there is no interval."""
_CELLS_AT_ONCE = 4_000_000
_NOTHING = Interval(None, None, None, None, 0)


class Agreement(NamedTuple):
    """Of J annotators; an Interval's value is None where it is not defined."""

    accuracy: dict[tuple[int, int], Interval]
    """By pair i < j of annotators: the share of the pairs with a verdict of both on which it is the same."""
    kappa: dict[tuple[int, int], Interval]
    """By the same: Cohen's kappa, the accuracy beyond what independent verdicts would have."""
    fleiss: Interval
    """Fleiss' kappa of the pairs on which all gave a verdict."""
    alpha: Interval
    """Krippendorff's alpha of all pairs on which two or more gave a verdict."""


def agreement_of(verdicts: Floats, prompts: Ints, seed: int = 0) -> Agreement:
    """Agreement of J annotators on M pairs, with 95% intervals over prompts.

    verdicts: `(M, J)`, see above; prompts: `(M,)`, the number of each pair's prompt. Accuracies have Wilson's interval
    (`intervals.interval`), all others the bootstrap's: the 2.5% and 97.5% quantiles of 2,000 resamples of the prompts,
    since the pairs of one prompt are not independent. Raises DataError for other values than the four.
    """
    _check(verdicts)
    count = verdicts.shape[1]
    couples = [(i, j) for i in range(count) for j in range(i + 1, count)]
    groups = _numbered(prompts)
    resamples = _resamples(verdicts, groups, couples, seed)
    both = {c: (verdicts[:, c[0]], verdicts[:, c[1]]) for c in couples}
    return Agreement(
        {c: _accuracy(*pair, groups) for c, pair in both.items()},
        {c: _between(cohens_kappa(*pair), resamples.kappa[:, at], _known(verdicts[:, list(c)], 2), groups)
         for at, (c, pair) in enumerate(both.items())},
        _between(fleiss_kappa(verdicts), resamples.fleiss, _known(verdicts, count), groups),
        _between(krippendorffs_alpha(verdicts), resamples.alpha, _known(verdicts, 2), groups),
    )  # fmt: skip


def cohens_kappa(a: Floats, b: Floats) -> float | None:
    """Cohen's kappa of two annotators, `(M,)` each, on the pairs with a verdict of both; None where it is undefined.

        κ = (p_o − p_e) / (1 − p_e),   p_o = Σ_c n_cc / n,   p_e = Σ_c (n_c· / n)·(n_·c / n)

    1: always the same verdict, 0: as often as independent verdicts with the same shares, which is undefined where both
    give one and the same verdict throughout. Source: Cohen, Educ. Psychol. Meas. 20 (1960); computed by scikit-learn.
    """
    from sklearn.metrics import cohen_kappa_score

    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if len(np.unique(np.concatenate([a, b]))) < 2:
        return None
    return float(cohen_kappa_score(a, b, labels=list(VERDICTS)))


def fleiss_kappa(verdicts: Floats) -> float | None:
    """Fleiss' kappa of J annotators, `(M, J)`, on the pairs on which all gave a verdict; None where it is undefined.

        κ = (P̄ − P̄_e) / (1 − P̄_e),   P̄ = mean over pairs of Σ_c n_c(n_c − 1) / (J(J − 1)),   P̄_e = Σ_c p_c²

    with p_c the share of the verdict c among all. It takes the annotators as exchangeable. Source: Fleiss, Psychol.
    Bull. 76 (1971); computed by statsmodels.
    """
    from statsmodels.stats.inter_rater import fleiss_kappa as fleiss

    counts = _counts(verdicts[~np.isnan(verdicts).any(axis=1)])
    if verdicts.shape[1] < 2 or (counts.sum(axis=0) > 0).sum() < 2:
        return None
    return float(fleiss(counts))


def krippendorffs_alpha(verdicts: Floats) -> float | None:
    """Krippendorff's alpha of J annotators, `(M, J)`, verdicts being names; None where it is undefined.

    1 − observed / expected disagreement of two verdicts on the same pair. Missing verdicts are allowed: every pair on
    which at least two annotators gave one counts by their number. Source: Krippendorff, Computing Krippendorff's
    alpha-reliability (2011); computed by the package `krippendorff`.
    """
    import krippendorff

    counts = _counts(verdicts)
    counts = counts[counts.sum(axis=1) > 1]
    if (counts.sum(axis=0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))


def most_frequent_verdict(verdicts: Floats) -> Floats:
    """`(M,)`: the verdict that most of the J annotators gave; NaN where two or more are the most frequent, or none."""
    counts = _counts(verdicts)
    most = counts.max(axis=1, initial=0)
    clear = (most > 0) & ((counts == most[:, None]).sum(axis=1) == 1)
    return np.where(clear, np.array(VERDICTS)[counts.argmax(axis=1)], np.nan)


class _Resamples(NamedTuple):
    """Statistics of R resamples of the prompts, NaN where they are undefined."""

    kappa: Floats
    """`(R, couples)`"""
    fleiss: Floats
    alpha: Floats


def _resamples(verdicts: Floats, groups: Ints, couples: list[tuple[int, int]], seed: int) -> _Resamples:
    """All statistics of resamples of the prompts. The sums are of whole numbers, so they are exact in any order."""
    annotators, kinds = verdicts.shape[1], len(VERDICTS)
    confusion = [_confusion(verdicts[:, i], verdicts[:, j]) for i, j in couples]
    units = _counts(verdicts)
    sizes = units.sum(axis=1)
    complete = np.where(sizes[:, None] == annotators, units, 0)
    coincidences = [_coincidences(np.where(sizes[:, None] == m, units, 0)) for m in range(2, annotators + 1)]
    per_pair = np.concatenate([*confusion, complete, (complete * (complete - 1)).sum(axis=1, keepdims=True),
                               *coincidences], axis=1)  # fmt: skip
    sums = _resampled_sums(_by_group(per_pair, groups), seed)
    cells, at = kinds * kinds, kinds * kinds * len(couples)
    kappa = kappa_of_counts(sums[:, :at].reshape(-1, len(couples), kinds, kinds))
    fleiss = fleiss_of_counts(sums[:, at : at + kinds], sums[:, at + kinds], annotators)
    weighted = sums[:, at + kinds + 1 :].reshape(len(sums), -1, cells)
    shares = 1 / np.arange(1, annotators)  # of a pair with m verdicts, 1 / (m − 1)
    return _Resamples(kappa, fleiss, alpha_of_coincidences((weighted * shares[:, None]).sum(axis=1)))


def kappa_of_counts(table: Floats) -> Floats:
    """Cohen's kappa of `(…, C, C)` tables of counts; NaN where it is undefined."""
    n = table.sum(axis=(-2, -1))
    same = np.trace(table, axis1=-2, axis2=-1)
    by_chance = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1)
    return _ratio(n * same - by_chance, n * n - by_chance)


def fleiss_of_counts(counts: Floats, same: Floats, annotators: int) -> Floats:
    """Fleiss' kappa of `(…, C)` counts of verdicts and `(…)` sums of n_c(n_c − 1); NaN where it is undefined."""
    n = counts.sum(axis=-1)
    observed = _ratio(same, n * max(annotators - 1, 1))
    by_chance = _ratio((counts**2).sum(axis=-1), n * n)
    return _ratio(observed - by_chance, 1 - by_chance)


def alpha_of_coincidences(table: Floats) -> Floats:
    """Krippendorff's alpha of `(…, C·C)` tables of coincidences; NaN where it is undefined."""
    table = table.reshape(*table.shape[:-1], len(VERDICTS), len(VERDICTS))
    of_kind = table.sum(axis=-1)
    n = of_kind.sum(axis=-1)
    observed = n - np.trace(table, axis1=-2, axis2=-1)
    return 1 - _ratio(observed * (n - 1), n * n - (of_kind**2).sum(axis=-1))


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.abs(below) > 1e-12)


def _check(verdicts: Floats) -> None:
    wrong = verdicts[~np.isnan(verdicts) & ~np.isin(verdicts, VERDICTS)]
    if len(wrong):
        raise DataError(f"{len(wrong)} verdicts are not 1, 0, −1 or NaN, the first is {wrong[0]:g}")


def _counts(verdicts: Floats) -> Ints:
    """`(M, C)`: how often each verdict was given of each pair."""
    return np.stack([(verdicts == v).sum(axis=1) for v in VERDICTS], axis=1).astype(np.int64)


def _confusion(a: Floats, b: Floats) -> Ints:
    """`(M, C·C)`: 1 in the cell of both verdicts, 0 throughout where one is missing."""
    return np.stack([((a == v) & (b == w)) for v in VERDICTS for w in VERDICTS], axis=1).astype(np.int64)


def _coincidences(units: Ints) -> Ints:
    """`(M, C·C)`: ordered pairs of verdicts of two different annotators, from `(M, C)` counts."""
    pairs = units[:, :, None] * units[:, None, :]
    own = np.arange(len(VERDICTS))
    pairs[:, own, own] -= units
    return pairs.reshape(len(units), -1)


def _numbered(prompts: Ints) -> Ints:
    """The same groups, numbered from 0."""
    return np.unique(prompts, return_inverse=True)[1].astype(np.int64)


def _by_group(values: Ints, groups: Ints) -> Floats:
    """`(G, n)`: sums of the rows `(M, n)` of each group."""
    if not len(groups):
        return np.zeros((0, values.shape[1]))
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return np.add.reduceat(values[order], starts).astype(np.float64)


def _resampled_sums(by_group: Floats, seed: int) -> Floats:
    """`(R, n)`: sums over as many groups as there are, drawn with replacement, R times."""
    groups, noise = len(by_group), np.random.default_rng(seed)
    if groups == 0:
        return np.zeros((RESAMPLES, by_group.shape[1]))

    def times_drawn(n: int) -> Floats:
        drawn = noise.integers(groups, size=(n, groups)) + groups * np.arange(n)[:, None]
        return np.bincount(drawn.ravel(), minlength=n * groups).reshape(n, groups).astype(np.float64)

    step = max(1, _CELLS_AT_ONCE // groups)
    sizes = [min(step, RESAMPLES - at) for at in range(0, RESAMPLES, step)]
    return np.concatenate([times_drawn(n) @ by_group for n in sizes])


def _known(verdicts: Floats, at_least: int) -> npt.NDArray[np.bool_]:
    """`(M,)`: whether so many annotators gave a verdict."""
    return np.asarray((~np.isnan(verdicts)).sum(axis=1) >= at_least)


def _accuracy(a: Floats, b: Floats, groups: Ints) -> Interval:
    known = ~(np.isnan(a) | np.isnan(b))
    if not known.any():
        return _NOTHING
    of_group = _by_group(np.stack([known, known & (a == b)], axis=1).astype(np.int64), groups)
    counts, same = of_group[of_group[:, 0] > 0].T
    return interval(same / counts, counts, share=True)


def _between(value: float | None, resampled: Floats, known: npt.NDArray[np.bool_], groups: Ints) -> Interval:
    """A value with the quantiles of its resamples; n: the prompts that it comes from."""
    n = len(np.unique(groups[known]))
    if value is None:
        return Interval(None, None, None, None, n)
    defined = resampled[~np.isnan(resampled)]
    if n < 2 or len(defined) < DEFINED * len(resampled):
        return Interval(value, None, None, None, n)
    low, high = (float(x) for x in np.quantile(defined, (0.025, 0.975)))
    return Interval(value, float(defined.std(ddof=1)), min(low, value), max(high, value), n)
