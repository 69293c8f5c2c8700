"""Diagnoses by hand-worked tables: correlations, density ratios, SPPO's targets."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from tasks.contract import DataError
from tasks.diagnose import correlations, density_ratio, target_spread
from tasks.judging.attributes import with_attributes
from tasks.judging.correlations import over_all, spearman
from tasks.kinds import Completions, Logps, Report, Scores, WinRates
from tests.answers import completions
from tests.workspace import Workspace


def numbers(report: Report) -> dict[str, tuple[float | None, int]]:
    return {row["name"].removeprefix("eval/"): (row["value"], row["n"]) for row in report.table.to_pylist()}


def by_prompt(report: Report) -> list[dict[str, Any]]:
    assert report.per_prompt is not None
    return report.per_prompt.to_pylist()


def counts(report: Report, name: str) -> dict[float, int]:
    """Lower edge → count, of the bins that are not empty."""
    assert report.bins is not None
    rows = [row for row in report.bins.to_pylist() if row["name"] == name]
    return {round(row["low"], 6): row["count"] for row in rows if row["count"]}


def rated(rates: Mapping[str, Sequence[float]]) -> WinRates:
    table = completions({prompt: ["yes"] * len(several) for prompt, several in rates.items()}).table
    flat = [rate for several in rates.values() for rate in several]
    for name, column in {
        "win_rate": pa.array(flat), "opponents": pa.array([2] * len(flat), pa.int32()),
        "prompt_win_rates": pa.array([several for several in rates.values() for _ in several]),
    }.items():  # fmt: skip
        table = table.append_column(name, column)
    return WinRates.of(table)


def test_targets_of_a_prompt_whose_answers_are_all_alike_have_no_spread() -> None:
    """Spreads 0.84 and 0; distances from ½ (0.42 + 0 + 0.42) / 3 and 0."""
    report = target_spread(rated({"x": [0.92, 0.5, 0.08], "y": [0.5, 0.5]}))
    assert numbers(report) == {"target_spread": (pytest.approx(0.42), 2), "target_distance": (pytest.approx(0.14), 2)}
    assert [row["target_spread"] for row in by_prompt(report)] == pytest.approx([0.84, 0.0])
    assert counts(report, "target_win_rates") == {0.05: 1, 0.5: 3, 0.9: 1}
    with pytest.raises(DataError, match="has no rows"):
        target_spread(WinRates.of(rated({"x": [0.5]}).table.slice(0, 0)))


def measured(values: Mapping[str, Sequence[tuple[float, ...]]], names: Sequence[str]) -> Scores:
    """Answers whose lengths are 1, 2, … in the order of a prompt's rows, with these attributes."""
    table = completions({prompt: ["x" * (k + 1) for k in range(len(rows))] for prompt, rows in values.items()}).table
    flat = np.array([row for rows in values.values() for row in rows], np.float64)
    return Scores.of(with_attributes(table, flat, [1.0] * len(names)), {"attributes": json.dumps(list(names))})


def test_prompts_can_make_a_correlation_that_no_prompt_has() -> None:
    """Within both prompts b falls as a rises; the second prompt has more of both: ranks 1 2 3 4 5 6 and 3 2 1 6 5 4,
    ρ = 1 − 6·(4 + 0 + 4 + 4 + 0 + 4) / 210."""
    low, high = [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)], [(11.0, 13.0), (12.0, 12.0), (13.0, 11.0)]
    report = correlations(measured({"x": low, "y": high}, ["a", "b"]))
    found = numbers(report)
    assert found["correlation/a/b"] == (pytest.approx(1 - 96 / 210), 2)
    assert found["correlation_within/a/b"] == (pytest.approx(-1), 2)
    assert found["length_correlation/a"] == found["correlation_within/a/length"] == (pytest.approx(1), 2)
    assert counts(report, "length_correlation/a") == {0.9: 2}
    assert counts(report, "length_correlation/b") == {-1.1: 2}
    assert [row["correlation_within/a/b"] for row in by_prompt(report)] == pytest.approx([-1, -1])


def test_a_prompt_whose_answers_score_alike_does_not_count_within_prompts() -> None:
    report = correlations(measured({"x": [(1.0, 1.0), (2.0, 2.0)], "y": [(5.0, 1.0), (5.0, 2.0)]}, ["a", "b"]))
    assert numbers(report)["correlation_within/a/b"] == (pytest.approx(1), 1)
    assert [row["correlation_within/a/b"] for row in by_prompt(report)] == [pytest.approx(1), None]


def test_a_score_alone_is_related_to_length_and_without_it_there_is_nothing_to_relate() -> None:
    table = completions({"x": ["a", "bb", "ccc"]}).table
    scores = Scores.of(table.append_column("score", pa.array([3.0, 2.0, 1.0])))
    assert numbers(correlations(scores))["correlation/score/length"] == (pytest.approx(-1), 1)
    with pytest.raises(DataError, match="need two quantities"):
        correlations(scores, lengths=False)


def test_ranks_with_ties_agree_with_scipy_and_a_missing_value_takes_its_answer_out() -> None:
    noise = np.random.default_rng(3)
    x, y = noise.integers(0, 6, 60).astype(float), noise.integers(0, 6, 60).astype(float)
    assert spearman(x, y) == pytest.approx(float(spearmanr(x, y).statistic))
    groups = np.repeat(np.arange(15), 4)
    y[7] = np.nan
    known = np.delete(np.arange(60), 7)
    assert over_all(x, y, groups).value == pytest.approx(float(spearmanr(x[known], y[known]).statistic))


def test_the_interval_of_a_correlation_over_all_answers_holds_the_truth() -> None:
    """ρ of a normal pair with correlation r is 6/π·asin(r/2); 120 worlds of 40 prompts, whose 2 answers share noise."""
    r, covered, noise = 0.6, 0, np.random.default_rng(0)
    truth = 6 / np.pi * np.arcsin(r / 2)
    for _ in range(120):
        shared, own = noise.normal(size=(2, 40, 1)), noise.normal(size=(2, 40, 2))
        a, b = (0.6**0.5 * shared + 0.4**0.5 * own).reshape(2, -1)
        found = over_all(a, r * a + (1 - r * r) ** 0.5 * b, np.repeat(np.arange(40), 2))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.89 <= covered / 120 <= 0.99


def logps_of(answers: Completions, per_token: float) -> Logps:
    rows = answers.table.select(["prompt_id", "completion_id", "token_logps"]).to_pylist()
    return Logps.of(pa.table({
        "prompt_id": [r["prompt_id"] for r in rows], "completion_id": [r["completion_id"] for r in rows],
        "logps": [per_token * len(r["token_logps"]) for r in rows],
        "lengths": pa.array([len(r["token_logps"]) for r in rows], pa.int32()),
    }))  # fmt: skip


def test_a_ratio_of_a_fifth_of_a_nat_per_token_has_this_slope_and_grows_with_the_length(tmp_path: Path) -> None:
    """The policy has −0.5 per token, the reference −0.7: 0.2·length, of lengths 1, 3, 2, 6; means 0.4 and 0.8."""
    answers = completions({"x": ["a", "bbb"], "y": ["cc", "dddddd"]})
    report = density_ratio(answers, logps_of(answers, -0.7), Workspace(tmp_path))
    found = {name: value for name, (value, _) in numbers(report).items()}
    assert found == pytest.approx({"log_ratio": 0.6, "log_ratio_per_token": 0.2, "log_ratio_slope": 0.2})
    assert report.bins is not None
    bins = report.bins.to_pylist()
    assert sum(row["count"] for row in bins) == 4
    assert [row["value"] for row in bins] == pytest.approx([0.2 * row["mean"] for row in bins])
    assert by_prompt(report) == [
        {"prompt_id": "x", "log_ratio": pytest.approx(0.4), "length": 2.0},
        {"prompt_id": "y", "log_ratio": pytest.approx(0.8), "length": 4.0},
    ]


def test_answers_of_one_length_have_one_bin_and_no_slope(tmp_path: Path) -> None:
    answers = completions({"x": ["aa"], "y": ["bb"]})
    report = density_ratio(answers, logps_of(answers, -0.5), Workspace(tmp_path))
    assert numbers(report)["log_ratio_slope"][0] is None
    assert counts(report, "log_ratio_by_length") == {2.0: 2}
