"""A method's metrics over its training seeds: mean, range, and how far seeds and prompts leave the mean open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, NamedTuple

from flows.reporting.differences import aligned, column_of
from flows.reporting.results import NOTHING, ResultRow
from tasks.contract import JSON
from tasks.declarations import Metric

if TYPE_CHECKING:
    import polars as pl

Ends = tuple[float, float]


class OverSeeds(NamedTuple):
    """One metric over S ≥ 2 trainings. Intervals are None where a Report has no values by prompt."""

    mean: float
    lowest: float
    highest: float
    seed_error: float
    """Standard error of the mean by the spread of the seeds: sd / √S."""
    over_prompts: Ends | None
    """95% interval of the mean, as if other seeds came out alike (Student's t)."""
    over_both: Ends | None
    """95% interval of the mean over prompts and seeds; see `tasks.judging.crossed`."""
    n: int
    """Prompts that all seeds have a value of; 0 without values by prompt."""
    metric: Metric

    def texts(self) -> Iterator[str]:
        """Mean, range, standard error and both intervals, in the format of the metric's column."""
        yield f"{self.mean:{self.metric.format}}"
        yield _between((self.lowest, self.highest), self.metric.format)
        yield f"{self.seed_error:{self.metric.format}}"
        yield from (_between(ends, self.metric.format) for ends in (self.over_prompts, self.over_both))

    def as_json(self) -> JSON:
        """All but how it is shown."""
        ends: dict[str, JSON] = {
            name: [*pair] if pair else None
            for name, pair in (("over_prompts", self.over_prompts), ("over_prompts_and_seeds", self.over_both))
        }
        between: list[JSON] = [self.lowest, self.highest]
        return {"mean": self.mean, "range": between, "seed_error": self.seed_error, **ends, "n": self.n}


def over_seeds(rows: Sequence[ResultRow], tables: Sequence[pl.DataFrame]) -> dict[str, OverSeeds]:
    """The metrics that comparisons show, over the last headline of each seed.

    rows: one for each seed; tables: their values by prompt, as many, or none.
    """
    shown = {name: e.metric for name, e in rows[0].metrics.items() if e.metric.column and e.metric.compared}
    common = [name for name in shown if all(name in row.metrics for row in rows)]
    return {name: _over_seeds([row.metrics[name].value for row in rows], tables, name, shown[name]) for name in common}


def _between(ends: Ends | None, format: str) -> str:
    if ends is None:
        return NOTHING
    low, high = ends
    return f"{low:{format}}{'–' if low >= 0 else ' to '}{high:{format}}".replace("-", "−")


def _over_seeds(values: Sequence[float], tables: Sequence[pl.DataFrame], name: str, metric: Metric) -> OverSeeds:
    from tasks.judging.crossed import crossed_mean

    error, column = stdev(values) / len(values) ** 0.5, column_of(name)
    summary = OverSeeds(mean(values), min(values), max(values), error, None, None, 0, metric)
    if not tables or any(column not in table.columns for table in tables):
        return summary
    by_prompt, weights = aligned(tables, column)
    if len(weights) < 2:
        return summary
    both, prompts = crossed_mean(by_prompt, weights), crossed_mean(by_prompt.mean(axis=0)[None], weights)
    return summary._replace(over_prompts=prompts.ends(), over_both=both.ends(), n=both.n)
