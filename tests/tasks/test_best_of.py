"""Best of n: the estimator against all subsets, published numbers, ties, and tables that do not fit."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.best_of import best_of, best_of_wiring, kl_of_best_of, selection_weights
from tasks.contract import DataError, SpecError
from tasks.kinds import Scores
from tests.answers import completions, named
from tests.workspace import Workspace

GOLD = [0.1, 0.4, 0.2, 0.9, 0.3]


def _scores(values: Mapping[str, Sequence[float | None]]) -> Scores:
    table = completions({prompt: [f"t{i}" for i in range(len(v))] for prompt, v in values.items()}).table
    column: Any = pa.array([x for v in values.values() for x in v], pa.float64())
    return Scores.of(table.append_column("score", column))


def test_the_published_numbers_come_out() -> None:
    # KL of n = 4, 16, 64, and the best of 2 by its own score
    assert [kl_of_best_of(n) for n in (1, 4, 16, 64)] == pytest.approx([0, 0.636294, 1.835089, 3.174508], abs=1e-6)
    assert float(selection_weights(np.array(GOLD), 2) @ GOLD) == pytest.approx(0.56)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_estimate_is_the_mean_over_all_subsets_of_n(n: int) -> None:
    proxy = np.array([0.3, 2.0, -1.0, 0.7, 0.1])
    chosen = [max(subset, key=lambda i: proxy[i]) for subset in combinations(range(5), n)]
    weights = selection_weights(proxy, n)
    assert weights.sum() == pytest.approx(1.0)
    assert float(weights @ GOLD) == pytest.approx(np.mean([GOLD[i] for i in chosen]))


def test_of_equal_proxies_each_is_as_likely_whatever_the_order() -> None:
    proxy = np.array([1.0, 1.0, 0.0])
    # subsets of 2: {0, 1} either, {0, 2}: 0, {1, 2}: 1
    assert selection_weights(proxy, 2) == pytest.approx([0.5, 0.5, 0.0])
    assert selection_weights(np.zeros(4), 3) == pytest.approx([0.25] * 4)


def test_the_report_has_gold_by_the_proxys_order_its_paired_gain_and_the_bound(tmp_path: Path) -> None:
    proxy = _scores({"x": [1.0, 2.0, 3.0], "y": [3.0, 2.0, 1.0]})
    gold = _scores({"x": [0.0, 6.0, 3.0], "y": [9.0, 0.0, 0.0]})
    report = best_of(proxy, gold, Workspace(tmp_path), n=2)
    rows = named(report)
    # by rank 0, 1/3, 2/3: x: (6 + 2·3)/3 = 4; y: (0 + 2·9)/3 = 6; means 3 and 3
    assert {name: rows[f"eval/{name}"]["value"] for name in ("gold", "baseline_gold", "gold_gain", "n")} == {
        "gold": pytest.approx(5.0), "baseline_gold": pytest.approx(3.0), "gold_gain": pytest.approx(2.0), "n": 2.0,
    }  # fmt: skip
    assert rows["eval/proxy"]["value"] == pytest.approx(8 / 3)
    assert rows["eval/proxy_gain"]["value"] == pytest.approx(2 / 3)
    assert rows["eval/kl"]["value"] == pytest.approx(np.log(2) - 0.5)
    # gains 1 and 3: standard error 1, t(1, .975) = 12.706
    assert rows["eval/gold_gain"]["ci_high"] == pytest.approx(2 + 12.7062047)
    assert report.per_prompt is not None
    assert report.per_prompt.column("gold").to_pylist() == pytest.approx([4.0, 6.0])


def test_one_of_one_is_the_policy(tmp_path: Path) -> None:
    rows = named(best_of(_scores({"x": GOLD}), _scores({"x": GOLD[::-1]}), Workspace(tmp_path), n=1))
    assert rows["eval/gold"]["value"] == pytest.approx(np.mean(GOLD))
    assert (rows["eval/gold_gain"]["value"], rows["eval/kl"]["value"]) == (pytest.approx(0.0), 0.0)


@pytest.mark.parametrize(
    ("proxy", "gold", "problem"),
    [
        ({"x": [1.0]}, {"x": [1.0]}, "n = 2, and there are 1 answers to each prompt: sample with k ≥ 2"),
        ({"x": [1.0, 2.0], "y": [1.0]}, {"x": [1.0, 2.0], "y": [1.0]}, "the prompts have 1 to 2 answers"),
        ({"x": [1.0, None]}, {"x": [1.0, 2.0]}, "1 of 2 answers have no score by `proxy`"),
        ({"x": [1.0, 2.0]}, {"x": [None, None]}, "2 of 2 answers have no score by `gold`"),
        ({"x": [1.0, 2.0]}, {"y": [1.0, 2.0]}, "`proxy` scores 2 answers and `gold` 2, of which 0 are the same"),
        ({}, {}, "the table `proxy` is empty or contains a draw twice"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    proxy: dict[str, list[float]], gold: dict[str, list[float]], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=problem):
        best_of(_scores(proxy), _scores(gold), Workspace(tmp_path), n=2)


def test_more_than_was_sampled_is_refused_before_anything_runs() -> None:
    class Seen:
        params = {"n": 16}  # noqa: RUF012

        def __init__(self, k: float) -> None:
            self.k, self.inputs = k, {"proxy": [self]}

    with pytest.raises(SpecError, match="n = 16, and `proxy` has 8 answers per prompt: sample with k ≥ 16"):
        best_of_wiring(Seen(8))  # type: ignore[arg-type]
    best_of_wiring(Seen(16))  # type: ignore[arg-type]
    best_of_wiring(Seen(float("nan")))  # type: ignore[arg-type]
