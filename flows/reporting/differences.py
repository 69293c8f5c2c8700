"""Differences of methods, paired by prompt: over prompts, and over training seeds where a method has several."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import polars as pl

    from tasks.judging.crossed import CrossedMean, Floats


class MeasuredMethod(NamedTuple):
    """A method as it is compared: the values by prompt of each of its runs."""

    label: str
    metric: str
    """The metric that it is ranked by; empty: none."""
    tables: Sequence[pl.DataFrame]
    """The table by prompt of each run's last headline; empty where one has none."""


class MetricDifference(NamedTuple):
    """Mean of a − b over the prompts that all their runs were measured on, with its interval.

    All intervals of a comparison hold together with 95% (Bonferroni), because the best of many runs is chosen after the
    numbers are known. Holm's procedure has a little more power, but no intervals that agree with its decisions.
    """

    a: str
    b: str
    value: float
    low: float
    high: float
    n: int
    higher_is_better: bool = True
    seeds: tuple[int, int] = (1, 1)
    """How many trainings of a and of b are in it; the interval contains the variation between those of several."""

    @property
    def winner(self) -> str:
        """The method that is better over the whole interval; empty if the interval contains 0."""
        higher = self.a if self.low > 0 else self.b if self.high < 0 else ""
        return higher if self.higher_is_better or not higher else self.b if higher == self.a else self.a


def metric_differences(methods: Sequence[MeasuredMethod], *, higher_is_better: bool = True) -> list[MetricDifference]:
    """The differences of every two methods that are ranked by the same metric and have tables by prompt."""
    means: dict[tuple[str, str], tuple[CrossedMean, tuple[int, int]]] = {}
    for a, b in combinations(methods, 2):
        if a.metric and a.metric == b.metric and a.tables and b.tables:
            mean = paired_mean(a.tables, b.tables, column_of(a.metric))
            if mean:
                means[a.label, b.label] = mean, (len(a.tables), len(b.tables))
    return [
        MetricDifference(*pair, mean.value, *mean.ends(len(means)), mean.n, higher_is_better, seeds)
        for pair, (mean, seeds) in means.items()
    ]


def column_of(metric: str) -> str:
    """The column of a Report's table by prompt that holds a metric."""
    return metric.partition("/")[2]


def paired_mean(a: Sequence[pl.DataFrame], b: Sequence[pl.DataFrame], column: str) -> CrossedMean | None:
    """Mean of a − b over the prompts that all tables have, one table for each seed; None below two prompts.

    See `tasks.judging.crossed.crossed_mean`. A prompt weighs as many pairs as it has in the table with the fewest,
    where tables have a column `pairs`; prompts of weight 0 do not count.
    """
    from tasks.judging.crossed import crossed_mean

    values, weights = aligned([*a, *b], column)
    return crossed_mean(values[: len(a)], weights, values[len(a) :]) if len(weights) > 1 else None


def aligned(tables: Sequence[pl.DataFrame], column: str) -> tuple[Floats, Floats]:
    """`(tables, P)` values and `(P,)` weights of the prompts that every table has a value of."""
    import numpy as np
    import polars as pl

    joined: pl.DataFrame | None = None
    for number, table in enumerate(tables):
        weight = pl.col("pairs").cast(float) if "pairs" in table.columns else pl.lit(float("inf"))
        own = table.select("prompt_id", pl.col(column).cast(float).alias(f"{number}"), weight.alias(f"weight{number}"))
        joined = own if joined is None else joined.join(own, on="prompt_id", how="inner", maintain_order="left")
    if joined is None:
        return np.empty((0, 0)), np.empty(0)
    names = [f"{number}" for number in range(len(tables))]
    both = joined.drop_nulls().select(*names, weight=pl.min_horizontal([f"weight{n}" for n in names]))
    both = both.filter(pl.col("weight") > 0).with_columns(pl.col("weight").replace(float("inf"), 1.0))
    return both.select(names).to_numpy().T, both["weight"].to_numpy()
