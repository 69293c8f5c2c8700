"""Whether a candidate is better than the head, tested at every tick so that the errors of all ticks stay below alpha.

Tick t tests at the level alpha / (t·(t + 1)). These levels add up to alpha over all ticks, so that a loop which ticks
for ever accepts a policy that is no better than its head with probability alpha at most, at any tick (union bound).

The test is a bet on the prompts' win rates x₁ … xₙ in [0, 1] against the hypothesis that their expected mean is ½ or
less: capital 1 is divided over a few stakes λ, each of which becomes Π (1 + λ·(xᵢ − ½)). The mean over the stakes is
an e-value: its expectation is 1 at most under the hypothesis, for every n and every distribution, for prompts drawn
at random and for given prompts with answers drawn anew (the mean of the factors bounds their geometric mean). So
p = 1/e is a p-value (Markov). No normal approximation is in it, which would not hold at levels such as 10⁻⁵.

Source: Waudby-Smith & Ramdas, arXiv 2010.09686 (betting); Vovk & Wang, arXiv 1912.06116 (e-values, mixtures of them).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

from tasks.contract import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Floats = npt.NDArray[np.float64]

_QUANTILE = 0.8416212335729143
"""Of the normal distribution at 80%, the power with which the smallest gain that a test reports is seen."""
_LARGEST_STAKE = 1.9
"""Below 2, so that one lost prompt (x = 0) does not cost the whole capital."""
_VARIANCES = (1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)
"""Variances of a prompt's win rate for which one of the stakes is the best one; ¼ is the largest that there is."""


@dataclass(frozen=True)
class Evidence:
    """What the gate's test found at one tick. A round is accepted where `p` is `level` or less."""

    p: float
    """Valid for every number of prompts: P(p ≤ u) ≤ u for a candidate that is no better than the head."""
    level: float
    """alpha / (t·(t + 1)) at tick t."""
    alpha: float
    n: int
    """Number of prompts."""
    spread: float
    """Standard deviation of the prompts' win rates."""
    detectable: float | None
    """The smallest win rate that this test would have accepted with 80% power, at this n, spread and level; None: not
    even a win rate of 1, because the prompts are too few."""

    @property
    def accepts(self) -> bool:
        return self.p <= self.level

    @property
    def decision(self) -> str:
        """p and what it is compared with."""
        return f"p = {self.p:.2g} {'≤' if self.accepts else '>'} {self.level:.2g}"

    @property
    def reach(self) -> str:
        """Which gain the test could see, as a sentence."""
        prompts = f"{self.n} prompts of standard deviation {self.spread:.2f} at level {self.level:.2g}"
        if self.detectable is None:
            return f"the gate could see no gain at all: {prompts} are too few"
        gain = f"{self.detectable - 0.5:.3f} (win rate {self.detectable:.3f})"
        return f"the smallest gain that the gate would have seen with 80% probability is {gain}: {prompts}"


def level_of(alpha: float, tick: int) -> float:
    """The share of alpha that tick `tick` (from 1) may use. All ticks together use alpha."""
    return alpha / (tick * (tick + 1))


def evidence_of(win_rates: Floats, alpha: float, tick: int) -> Evidence:
    """Test `(n,)` win rates of a candidate against the head, by prompt, n ≥ 1."""
    level = level_of(alpha, tick)
    p = float(p_values(win_rates, level))
    return Evidence(p, level, alpha, len(win_rates), float(win_rates.std()), detectable(win_rates, level))


def win_rates_by_prompt(per_prompt: pa.Table | None, metric: str) -> Floats:
    """A metric of a Report's table by prompt. Raises DataError where it has none in [0, 1]."""
    import numpy as np

    name = metric.rpartition("/")[2]
    if per_prompt is None or name not in per_prompt.column_names:
        raise DataError(f"has no table by prompt with a column {name}, which its test needs")
    rates = per_prompt.column(name).drop_null().to_numpy().astype(np.float64)
    if not len(rates) or not ((rates >= 0) & (rates <= 1)).all():
        raise DataError(f"has no win rates in [0, 1] by prompt ({len(rates)} prompts with a number)")
    return rates


def p_values(win_rates: Floats, level: float) -> Floats:
    """1/e of `(…, n)` win rates, `(…)`; the stakes are those that serve best at `level`, which is known beforehand."""
    import numpy as np

    capital = [np.log1p(stake * (win_rates - 0.5)).sum(-1) for stake in _stakes(win_rates.shape[-1], level)]
    p: Floats = np.exp(-np.maximum(_mixed(np.stack(capital)), 0.0))
    return p


def detectable(win_rates: Floats, level: float) -> float | None:
    """The smallest win rate that is accepted with 80% power where prompts spread as these do; None if there is none.

    The prompts' win rates are taken as a beta distribution: of the observed precision, with its mean moved. The log
    of the capital is taken as normal.
    """
    mean, variance, n = float(win_rates.mean()), float(win_rates.var()), len(win_rates)
    precision = min(max(mean * (1 - mean) / max(variance, 1e-9) - 1, 1e-3), 1e6)
    lowest, highest = 0.5, 1 - 1e-6
    if not _is_seen(highest, precision, n, level):
        return None
    for _ in range(20):
        middle = (lowest + highest) / 2
        lowest, highest = (lowest, middle) if _is_seen(middle, precision, n, level) else (middle, highest)
    return highest


def _is_seen(mean: float, precision: float, n: int, level: float) -> bool:
    """Whether the 20% quantile of the capital over n prompts of that distribution is large enough."""
    import numpy as np
    from scipy.special import betaincinv

    rates = betaincinv(mean * precision, (1 - mean) * precision, (np.arange(256) + 0.5) / 256)
    gains = [np.log1p(stake * (rates - 0.5)) for stake in _stakes(n, level)]
    usual = np.array([n * g.mean() - _QUANTILE * n**0.5 * g.std() for g in gains])
    return bool(_mixed(usual) >= -log(level))


def _mixed(capital: Floats) -> Floats:
    """log of the mean over the first axis, of logarithms."""
    import numpy as np

    mixed: Floats = np.logaddexp.reduce(capital, axis=0) - log(len(capital))
    return mixed


def _stakes(n: int, level: float) -> list[float]:
    """√(2·log(1/level) / (n·variance)): where a bet on n prompts of that variance reaches 1/level at the least gain."""
    return [min(_LARGEST_STAKE, (-2 * log(level) / (n * variance)) ** 0.5) for variance in _VARIANCES]
