"""How often 95% intervals hold the truth, and how often equal runs get a winner: simulated, through the shipped code.

    python -m benchmarks.coverage [--repeats 10000] [--out FILE]

Three tables. **Intervals** of one Report, of a paired difference, and of ratings, for 32, 128 and 805 prompts: won or
lost, with ties, prompts as clusters of 16 correlated pairs, prompts with different numbers of pairs, skewed scores.
**Seeds**: differences of methods with 2 to 5 trainings each, for between-seed variances from none to 25 times that of
the prompts. **A/A**: how often `compare` names a winner between runs that are equal: of two, of eight, and of methods
with seeds. Each share has Wilson's interval over the repetitions.

The result is a JSON file in `benchmarks/results/` (`benchmarks/record.py`); its tables are printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.record import Row, load_average, now, write_results
from flows.reporting.differences import MeasuredMethod, metric_differences
from tasks.judging.crossed import crossed_mean
from tasks.judging.intervals import interval

Floats = npt.NDArray[np.float64]
Generator = np.random.Generator
PROMPTS = (32, 128, 805)
"""A small file, the toy world's held-out prompts, AlpacaEval."""
SEEDS = ((2, 2), (3, 3), (5, 5), (2, 5))
BETWEEN = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Standard deviation between seeds, in that of the mean over prompts."""
CONCENTRATION = 3.0
"""Of the beta distribution by which prompts differ in how often they are won."""


class Sample(NamedTuple):
    """Values by prompt that a Report would have."""

    values: Floats
    weights: Floats | None
    truth: float
    share: bool = True


def _won(mean: float) -> Callable[[Generator, int], Sample]:
    return lambda rng, n: Sample(rng.binomial(1, mean, n).astype(float), None, mean)


def _ties(rng: Generator, n: int) -> Sample:
    """30% ties; of the rest 60% won."""
    return Sample(rng.choice([0.0, 0.5, 1.0], n, p=[0.28, 0.30, 0.42]), None, 0.57)


def _clusters(rng: Generator, n: int) -> Sample:
    """4 × 4 answers to each prompt: pairs of one answer are correlated, as are all pairs of a prompt."""
    prompt = rng.beta(0.65 * CONCENTRATION, 0.35 * CONCENTRATION, n)
    answers = rng.normal(0, 0.7, (2, n, 4))
    odds = np.log(prompt / (1 - prompt))[:, None, None] + answers[0][:, :, None] - answers[1][:, None, :]
    return Sample((1 / (1 + np.exp(-odds))).mean(axis=(1, 2)), None, _CLUSTERS_MEAN)


def _weighted(rng: Generator, n: int) -> Sample:
    """1 to 8 pairs of a prompt, each won with the prompt's own probability, which does not depend on their number."""
    pairs = rng.integers(1, 9, n)
    return Sample(rng.binomial(pairs, rng.beta(1.95, 1.05, n)) / pairs, pairs.astype(float), 0.65)


def _scores(rng: Generator, n: int) -> Sample:
    """Skewed scores: most near the best, a tail of bad ones."""
    return Sample(-rng.gamma(1.5, 1.0, n), None, -1.5, share=False)


def _mean_of_clusters() -> float:
    """The truth of `_clusters`, which has no closed form; its error is below 0.0002."""
    return float(np.mean([_clusters(np.random.default_rng(s), 40_000).values.mean() for s in range(40)]))


_CLUSTERS_MEAN = 0.0
CASES: dict[str, Callable[[Generator, int], Sample]] = {
    "won or lost, P = .5": _won(0.5), "won or lost, P = .7": _won(0.7), "won or lost, P = .9": _won(0.9),
    "30% ties": _ties, "clusters: 4 × 4 answers by prompt": _clusters, "1 to 8 pairs by prompt": _weighted,
    "skewed scores": _scores,
}  # fmt: skip


def interval_coverage(case: str, prompts: int, repeats: int, seed: int = 0) -> float:
    """Share of `tasks.judging.intervals.interval` that hold the truth."""
    global _CLUSTERS_MEAN
    _CLUSTERS_MEAN = _CLUSTERS_MEAN or _mean_of_clusters()
    rng, held = np.random.default_rng(seed), 0
    for _ in range(repeats):
        values, weights, truth, share = CASES[case](rng, prompts)
        found = interval(values, weights, share=share)
        held += found.low is not None and found.high is not None and found.low <= truth <= found.high
    return held / repeats


def two_runs(rng: Generator, prompts: int, gain: float = 0.0, k: int = 4) -> tuple[Floats, Floats]:
    """Win rates by prompt of two runs of the same prompts, the second better by `gain` in the mean of log-odds."""
    odds = rng.normal(0.5, 1.0, prompts)
    runs = (rng.binomial(k, 1 / (1 + np.exp(-(odds + shift + rng.normal(0, 0.5, prompts))))) / k for shift in (0, gain))
    first, second = runs
    return first, second


def difference_coverage(prompts: int, repeats: int, seed: int = 0) -> float:
    """Share of paired intervals of equal runs that hold 0."""
    rng, held, one = np.random.default_rng(seed), 0, np.ones(prompts)
    for _ in range(repeats):
        a, b = two_runs(rng, prompts)
        low, high = crossed_mean(a[None], one, b[None]).ends()
        held += low <= 0 <= high
    return held / repeats


def seeds_coverage(seeds: tuple[int, int], between: float, repeats: int, prompts: int = 128, seed: int = 0) -> float:
    """Share of intervals over seeds and prompts that hold the difference of two equal methods.

    between: standard deviation between seeds, in units of that of a mean over the prompts.
    """
    rng, held, one = np.random.default_rng(seed), 0, np.ones(prompts)
    for _ in range(repeats):
        a, b = (
            rng.normal(0, between / prompts**0.5, (n, 1)) + rng.normal(0, 0.7, (n, prompts)) for n in seeds
        )  # fmt: skip
        low, high = crossed_mean(a + rng.normal(0, 0.7, prompts), one, b).ends()
        held += low <= 0 <= high
    return held / repeats


def rating_coverage(prompts: int, repeats: int, seed: int = 0) -> float:
    """Share of bootstrap intervals of four players' ratings that hold the truth: 0, 60, 120 and 240 points."""
    from tasks.judging.ratings import POINTS_PER_NAT, anchored, bradley_terry_ratings
    from tasks.judging.tournament import Tournament

    truth, rng, held = np.array([0.0, 60.0, 120.0, 240.0]), np.random.default_rng(seed), 0
    chance = 1 / (1 + np.exp(-(truth[:, None] - truth[None]) / POINTS_PER_NAT))
    for _ in range(repeats):
        won = np.triu(rng.random((prompts, 4, 4)) < chance, 1).astype(float)
        p = won + np.tril(1 - np.swapaxes(won, 1, 2), -1) + 0.5 * np.eye(4)
        counts = rng.multinomial(prompts, np.full(prompts, 1 / prompts), 400).astype(float)
        wins, _ = Tournament([*"abcd"], [], p).summed(counts)
        low, high = np.quantile(anchored(bradley_terry_ratings(wins, 1000.0), 0), (0.025, 0.975), axis=0)
        held += int(((low <= truth + 1000) & (truth + 1000 <= high))[1:].sum())
    return held / (3 * repeats)


def winners(methods: int, seeds: int, between: float, repeats: int, prompts: int = 128, seed: int = 0) -> float:
    """Share of comparisons of equal methods in which `compare` names any winner.

    between: standard deviation of the log-odds between seeds; .06 moves a win rate by about .011.
    """
    rng, named, ids = np.random.default_rng(seed), 0, [str(i) for i in range(prompts)]
    for _ in range(repeats):
        odds = rng.normal(0.5, 1.0, prompts)
        several = []
        for method in range(methods):
            runs = (odds + rng.normal(0, between) + rng.normal(0, 0.5, prompts) for _ in range(seeds))
            rates = [rng.binomial(4, 1 / (1 + np.exp(-run))) / 4 for run in runs]
            tables = [pl.DataFrame({"prompt_id": ids, "win_rate": rate}) for rate in rates]
            several.append(MeasuredMethod(str(method), "eval/win_rate", tables))
        named += any(difference.winner for difference in metric_differences(several))
    return named / repeats


def rows(repeats: int) -> Iterator[Row]:
    """All rows, each with its table, its name and the share for every column."""
    for case in CASES:
        yield _row("intervals", case, {f"{n} prompts": interval_coverage(case, n, repeats) for n in PROMPTS}, repeats)
    yield _row("intervals", "paired difference of two runs",
               {f"{n} prompts": difference_coverage(n, repeats) for n in PROMPTS}, repeats)  # fmt: skip
    few = max(100, repeats // 10)
    yield _row("intervals", f"ratings, bootstrap ({few:,} repetitions)",
               {f"{n} prompts": rating_coverage(n, few) for n in PROMPTS[:2]}, few)  # fmt: skip
    for seeds in SEEDS:
        shares = {f"sd between seeds {b:g}": seeds_coverage(seeds, b, repeats) for b in BETWEEN}
        yield _row("seeds", f"{seeds[0]} and {seeds[1]} seeds", shares, repeats)
    for name, (methods, seeds, between, times) in AA.items():
        done = max(100, round(repeats * times))
        shares = {f"a winner of {done:,}": winners(methods, seeds, between, done)}
        yield _row("A/A", name, shares, done)


AA = {
    "2 equal runs": (2, 1, 0.0, 1.0), "8 equal runs, any of 28 pairs": (8, 1, 0.0, 0.2),
    "2 methods × 3 seeds, seeds equal": (2, 3, 0.0, 0.3), "2 methods × 3 seeds, seeds differ": (2, 3, 0.06, 0.3),
    "2 methods × 1 seed, seeds differ: intervals without them": (2, 1, 0.06, 0.3),
}  # fmt: skip
"""Name → methods, seeds of each, sd between seeds, and repetitions as a share of all."""


def _row(table: str, name: str, shares: dict[str, float], repeats: int) -> Row:
    return {"case": {"table": table}, "name": name, "repeats": repeats, "shares": shares}


def table_of(rows: Sequence[Row]) -> str:
    """Markdown: one table for each case, shares in percent."""
    parts = []
    for table in dict.fromkeys(row["case"]["table"] for row in rows):
        own = [row for row in rows if row["case"]["table"] == table]
        if table == "A/A":
            lines = [f"| {row['name']} | {share:.1%} | {wilson_text(share, row['repeats'])} |"
                     for row in own for share in row["shares"].values()]  # fmt: skip
            head = ["| A/A | `compare` names a winner | 95% CI |", "|---|---|---|"]
        else:
            columns = list(own[0]["shares"])
            head = [f"| {table} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
            cells = ([f"{row['shares'][c]:.1%}" if c in row["shares"] else "–" for c in columns] for row in own)
            lines = [f"| {row['name']} | {' | '.join(cell)} |" for row, cell in zip(own, cells, strict=True)]
        parts.append("\n".join([*head, *lines]))
    return "\n\n".join(parts)


def wilson_text(share: float, n: int) -> str:
    """Wilson's interval of a share over the repetitions."""
    z2 = 1.959964**2 / n
    middle, half = (share + z2 / 2) / (1 + z2), (z2 * (share * (1 - share) + z2 / 4)) ** 0.5 / (1 + z2)
    return f"{middle - half:.1%}–{middle + half:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10_000, help="simulated evaluations of each cell")
    parser.add_argument("--note", default="", help="conditions, for the record: what else the machine did")
    parser.add_argument("--out", type=Path, help="the JSON file; default: benchmarks/results/coverage-<date>.json")
    options = parser.parse_args()
    started, load, begun, made = now(), load_average(), time.process_time(), []
    for row in rows(options.repeats):
        made.append(row)
        print(f"{row['name']:56} {row['shares']}", flush=True)
    settings = {"repeats": options.repeats, "cpu_seconds": round(time.process_time() - begun)}
    file = write_results(
        "coverage", made, settings=settings, started=started, load=load, note=options.note, file=options.out
    )
    print(f"\n{table_of(made)}\n\n{file}")


if __name__ == "__main__":
    main()
