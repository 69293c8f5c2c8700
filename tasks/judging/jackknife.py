"""Intervals of statistics other than means, by leaving out one prompt at a time."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tasks.judging.intervals import Interval


def jackknife(statistic: Callable[[npt.NDArray[np.float64]], float], weights: npt.NDArray[np.float64]) -> Interval:
    """A statistic of weighted prompts with its 95% interval: value ± t·√((n − 1)/n·Σ (x₍ᵢ₎ − x̄)²).

    statistic: of `(n,)` weights; NaN where it is undefined, which gives no value. There is no interval for fewer than
    two prompts, nor where leaving out one of them makes the statistic undefined.

    Source: Efron and Stein, Ann. Statist. 9 (1981).
    """
    from scipy.special import stdtrit

    n, value = len(weights), statistic(weights)
    if np.isnan(value):
        return Interval(None, None, None, None, n)
    if n < 2:
        return Interval(value, None, None, None, n)
    left_out = np.array([statistic(np.where(np.arange(n) == i, 0.0, weights)) for i in range(n)])
    if np.isnan(left_out).any():
        return Interval(value, None, None, None, n)
    error = float(((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()) ** 0.5)
    half = float(stdtrit(n - 1, 0.975)) * error
    return Interval(value, error, value - half, value + half, n)
