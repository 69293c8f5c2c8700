"""Rank correlations of quantities of answers, over all answers and among those to one prompt, and histograms.

Axis letters: A answers, V quantities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.contract import DataError
from tasks.judging.intervals import Interval, interval
from tasks.judging.jackknife import jackknife
from tasks.kinds import Scores
from tasks.training.attribute_targets import SCORE, attribute_values

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MOST_GROUPS = 100
"""Groups of prompts that are left out in turn, for the interval of a correlation over all answers."""
LENGTH = "length"
"""Name of the answers' length among the quantities."""


class Quantities(NamedTuple):
    """What was measured of each answer."""

    names: list[str]
    values: Floats
    """`(A, V)`; NaN: not known."""
    prompts: list[str]
    """prompt_id of each answer."""

    @property
    def groups(self) -> Ints:
        """`(A,)`: the number of each answer's prompt, from 0 in the order of their first answers."""
        numbers = {prompt: n for n, prompt in enumerate(dict.fromkeys(self.prompts))}
        return np.array([numbers[prompt] for prompt in self.prompts], np.int64)


def quantities_of(scores: Scores, *, lengths: bool) -> Quantities:
    """The table's attributes, or its score where it has none; with `lengths` the answers' lengths as well, in tokens,
    or in characters where an answer has no tokens.

    Raises DataError for fewer than two quantities, or a slash in a name.
    """
    table: Any = scores.table
    names, values = [*(scores.attributes or (SCORE,))], attribute_values(scores)
    if lengths and LENGTH not in names:
        names = [*names, LENGTH]
        values = np.hstack([values, _lengths(table)[:, None]])
    if len(names) < 2 or any("/" in name for name in names):
        raise DataError(f"correlations need two quantities whose names have no slash, and the table has {names}")
    return Quantities(names, values, table.column("prompt_id").to_pylist())


def _lengths(table: Any) -> Floats:
    tokens = np.array([len(logps) for logps in table.column("token_logps").to_pylist()], np.float64)
    if tokens.all():
        return tokens
    return np.array([len(text) for text in table.column("completion").to_pylist()], np.float64)


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's ρ: Pearson's correlation of both ranks, ties with their mean rank; NaN where one side is constant.

    Source: Spearman, Am. J. Psychol. 15 (1904).
    """
    from scipy.stats import rankdata

    a, b = (rankdata(side) - (len(side) + 1) / 2 for side in (x, y))
    scale = float((a @ a) * (b @ b)) ** 0.5
    return float(a @ b) / scale if scale else float("nan")


def over_all(x: Floats, y: Floats, groups: Ints) -> Interval:
    """ρ over all answers that have both values, with its interval over prompts, of which groups of equal numbers are
    left out in turn."""
    known = ~(np.isnan(x) | np.isnan(y))
    x, y, prompts = x[known], y[known], np.unique(groups[known], return_inverse=True)[1]
    n = int(prompts.max()) + 1 if len(prompts) else 0
    if n == 0:
        return Interval(None, None, None, None, 0)
    parts = min(n, MOST_GROUPS)
    part = prompts * parts // n

    def left(weights: Floats) -> float:
        kept = weights[part] > 0
        return spearman(x[kept], y[kept])

    return jackknife(left, np.ones(parts))._replace(n=n)


def by_prompt(x: Floats, y: Floats, groups: Ints) -> Floats:
    """`(G,)`: ρ among the answers to each prompt; NaN where fewer than two have both values, or one is constant."""
    known = ~(np.isnan(x) | np.isnan(y))
    order = np.flatnonzero(known)[np.argsort(groups[known], kind="stable")]
    ends = np.searchsorted(groups[order], np.arange(int(groups.max()) + 2))
    rows = (order[a:b] for a, b in pairwise(ends.tolist()))
    return np.array([spearman(x[i], y[i]) if len(i) > 1 else np.nan for i in rows])


class Correlation(NamedTuple):
    """Of two quantities."""

    a: str
    b: str
    over_all: Interval
    within: Interval
    """The mean over prompts."""
    of_prompts: Floats
    """`(G,)`: by prompt."""


def correlations_of(quantities: Quantities) -> Iterator[Correlation]:
    """Of every two quantities."""
    groups = quantities.groups
    for i, j in combinations(range(len(quantities.names)), 2):
        x, y = quantities.values[:, i], quantities.values[:, j]
        of_prompts = by_prompt(x, y, groups)
        mean = interval(of_prompts[~np.isnan(of_prompts)], share=False)
        if mean.low is not None and mean.high is not None:
            mean = mean._replace(low=max(-1.0, mean.low), high=min(1.0, mean.high))
        yield Correlation(quantities.names[i], quantities.names[j], over_all(x, y, groups), mean, of_prompts)


def histogram(name: str, values: Floats, edges: Sequence[float] | Floats) -> Iterator[dict[str, Any]]:
    """The bins of a Report that count known values; each belongs to the bin whose lower edge it reaches, the highest
    edge to the last bin."""
    known = values[~np.isnan(values)]
    counts, _ = np.histogram(known, np.asarray(edges))
    for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
        yield {"name": name, "low": float(low), "high": float(high), "count": count}
