"""95% intervals over independent prompts: Wilson's for quantities in [0, 1], Student's for all others."""

from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean over prompts and its interval. Fields are None where there are too few prompts (0 or 1)."""

    value: float | None
    error: float | None
    """Standard error of the mean."""
    low: float | None
    high: float | None
    n: int

    def report_row(self, name: str, unit: str) -> dict[str, Any]:
        """The row of a Report that states it under the name `eval/<name>`."""
        return {
            "name": f"eval/{name}", "value": self.value, "ci_low": self.low, "ci_high": self.high, "n": self.n,
            "unit": unit,
        }  # fmt: skip


def interval(values: Any, weights: Any = None, *, share: bool) -> Interval:
    """Mean of `(n,)` values by prompt, with its interval; with weights, the ratio of sums Σ wᵢxᵢ / Σ wᵢ.

        s² = n/(n − 1) · Σ (wᵢ(xᵢ − m))² / (Σ wᵢ)²

    Student's interval is m ± t·s. `share`: the values are in [0, 1], as win rates, accuracies and shares of answers;
    then the interval is Wilson's with m(1 − m)·n/((n − 1)·s²) trials (n, if each is 0 or 1) and t for the normal. It
    stays in [0, 1] and holds near the ends, where Student's does not (all of 16 prompts won: 0.78–1, not 1–1). Values
    that never vary have an interval of width 0 within (0, 1).

    Coverage, for 16 to 128 prompts and means from 0.5 to 0.99: 93.5 to 97.5% by simulation for four answers by prompt,
    94 to 99% exactly for one answer, whose few possible values allow no less. It is lower if losses are so rare that
    the sample may contain none and near-wins differ only in their decimals.

    Source: Wilson, JASA 22 (1927); effective sizes and t as Franco et al., J. Survey Stat. Methodol. 7 (2019) advise
    for proportions in samples of clusters.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        return Interval(None, None, None, None, 0)
    weights = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    mean = float((weights * values).sum() / weights.sum())
    if n == 1:
        return Interval(mean, None, None, None, 1)
    error = float((n / (n - 1) * ((weights * (values - mean)) ** 2).sum()) ** 0.5 / weights.sum())
    t = float(stdtrit(n - 1, 0.975))
    low, high = _wilson(mean, error, n, t) if share else (mean - t * error, mean + t * error)
    return Interval(mean, error, low, high, n)


def stratified_interval(values: Any, prompts: Any, strata: Any, weights: Any) -> Interval:
    """Σ_s W_s·(mean of stratum s), W_s = weights[s] / Σ weights, of values in [0, 1], with its interval over prompts.

        s² = P/(P − S) · Σ_i (Σ_s W_s/n_s · Σ_{rows of prompt i in s} (x − mean_s))²

    P prompts, S strata, n_s rows. A prompt may have rows in several strata, which are then not independent. The
    interval is Wilson's as in `interval`, with t of P − S degrees of freedom; where all values are 0, or all 1, with
    1 / Σ_i (Σ_s W_s·n_is/n_s)² trials. It is null where a stratum has one prompt, whose variation is not known.

    Source: linearisation of a ratio in strata, Cochran, Sampling Techniques (1977), section 6.11; Wilson's interval as
    in `interval`. With one stratum both agree.

    Args:
        values: `(M,)`, one for each row.
        prompts: `(M,)`, the number of each row's prompt.
        strata: `(M,)`, the number of each row's stratum.
        weights: `(S,)`.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=np.float64)
    weights = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    _, prompts = np.unique(prompts, return_inverse=True)
    n = int(prompts.max()) + 1
    of_row = (weights / np.bincount(strata, minlength=len(weights)))[strata]
    means = np.bincount(strata, values) / np.bincount(strata)
    mean = float(weights @ means)
    error = float(
        (n / max(n - len(weights), 1) * (np.bincount(prompts, of_row * (values - means[strata])) ** 2).sum()) ** 0.5
    )
    if min(len(np.unique(prompts[strata == s])) for s in range(len(weights))) < 2 or n <= len(weights):
        return Interval(mean, None, None, None, n)
    trials = n if error else 1 / float((np.bincount(prompts, of_row) ** 2).sum())
    low, high = _wilson(min(max(mean, 0.0), 1.0), error, trials, float(stdtrit(n - len(weights), 0.975)))
    return Interval(mean, error, low, high, n)


def _wilson(mean: float, error: float, n: float, t: float) -> tuple[float, float]:
    """Where |m − p| = t·√(p(1 − p)/trials), for p."""
    within = 0 < mean < 1
    if within and error == 0:
        return mean, mean
    trials = mean * (1 - mean) * n / ((n - 1) * error**2) if within else n
    middle = (mean + t**2 / (2 * trials)) / (1 + t**2 / trials)
    half = t / (1 + t**2 / trials) * (mean * (1 - mean) / trials + t**2 / (4 * trials**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)
