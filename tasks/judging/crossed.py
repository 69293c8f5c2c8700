"""Means over training seeds and prompts together, where every seed is measured on the same prompts.

Axis letters: S seeds (trainings), P prompts.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class CrossedMean(NamedTuple):
    """A mean over seeds and prompts, or the difference of two such means."""

    value: float
    error: float
    """Standard error: prompts and seeds together, as far as there are several seeds."""
    n: int
    """Prompts."""
    freedom: float
    """Degrees of freedom of the error."""
    prompt_error: float
    """Standard error over prompts alone, as if the trainings were given."""

    def ends(self, several: int = 1) -> tuple[float, float]:
        """The ends of its 95% interval (Student's t), or of one out of `several` that hold together with 95%."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, 1 - 0.025 / several)) * self.error
        return self.value - half, self.value + half


def crossed_mean(values: Floats, weights: Floats, minus: Floats | None = None) -> CrossedMean:
    """Mean of a method's `(S, P)` values, or its difference to that of another method's `(S′, P)` values.

        x_sp = μ + α_s + π_p + ε_sp,   V = V_prompts + Σ over methods max(0, V_seeds − V_rest)

    V_prompts = n/(n − 1)·Σ (w_p(d_p − d))²/(Σ w)² with d_p the mean over seeds (of a difference: paired by prompt);
    V_seeds = variance of the seeds' means / S; V_rest, from the interaction of seeds and prompts, is the noise of
    sampling that V_prompts contains already. V_seeds is left out for a single seed. The degrees of freedom are
    Satterthwaite's, V²/(V_prompts²/(n − 1) + Σ V_seeds²/(S − 1)), over the variances that count. With one seed on each
    side it is the paired t interval.

    Coverage of 95% intervals of a difference, by simulation with 128 prompts and between-seed variances from none to
    25 times that of prompts (`benchmarks/coverage.py`): 94.8 to 97% for 3 to 5 seeds on each side, 93 to 97% with 2 on
    a side; above 95% where seeds do not differ. Seeds of two methods count as independent.

    values, minus: at least one seed and two prompts, the same prompts in the same order; weights: `(P,)`, positive.

    Source: the variance of a sample that is clustered in two crossed ways, Cameron, Gelbach and Miller, JBES 29 (2011);
    degrees of freedom by Satterthwaite, Biometrics Bull. 2 (1946).
    """
    n, w = values.shape[1], weights / weights.sum()
    by_prompt = values.mean(axis=0) - (0 if minus is None else minus.mean(axis=0))
    value = float(w @ by_prompt)
    prompts = n / (n - 1) * float(((w * (by_prompt - value)) ** 2).sum())
    variance, spread = prompts, prompts**2 / (n - 1)
    for side in (values, *(() if minus is None else (minus,))):
        if len(side) > 1:
            seeds, rest = _seed_variances(side, w)
            variance += max(0.0, seeds - rest)
            spread += seeds**2 / (len(side) - 1) if seeds > rest else 0.0
    freedom = variance**2 / spread if spread else n - 1.0
    return CrossedMean(value, variance**0.5, n, freedom, prompts**0.5)


def _seed_variances(values: Floats, w: Floats) -> tuple[float, float]:
    """The variance of a mean over seeds by the spread of their means, and the part of it that is no difference of the
    trainings: both of `(S, P)` values with S ≥ 2, and `(P,)` weights of sum 1."""
    seeds, n = values.shape
    means = values @ w
    left = values - values.mean(axis=0) - (means - means.mean())[:, None]
    rest = n / (n - 1) * float(((w * left) ** 2).sum()) / (seeds - 1)
    return float(means.var(ddof=1)) / seeds, rest / seeds
