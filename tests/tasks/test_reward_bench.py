"""RewardBench: its weights, its layouts of files, ties that count as wrong, best of n, intervals over prompts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contract import DataError
from tasks.judging.bench_sections import SECTIONS, subset_weights
from tasks.judging.intervals import interval, stratified_interval
from tasks.kinds import Preferences
from tasks.reward_bench import reward_bench
from tests.answers import named, scorer
from tests.tasks.reading import Step
from tests.workspace import Workspace

GOOD, EVEN, BAD = ("good", "worse"), ("even", "equal"), ("bad", "better")
SCORES = {"good": 1.0, "worse": 0.0, "even": 0.0, "equal": 0.0, "bad": 0.0, "better": 1.0}


def _layout(subsets: Mapping[str, Sequence[tuple[Any, Any]]]) -> list[dict[str, Any]]:
    """Rows as allenai/reward-bench has them."""
    sides = [(subset, pair) for subset, several in subsets.items() for pair in several]
    return [
        {"prompt": f"question {i} ?", "chosen": chosen, "chosen_model": "m", "rejected": rejected,
         "subset": subset, "id": i} for i, (subset, (chosen, rejected)) in enumerate(sides)
    ]  # fmt: skip


def _pairs(folder: Path, subsets: Mapping[str, Sequence[tuple[Any, Any]]]) -> Preferences:
    folder.mkdir(exist_ok=True)
    return Step(folder).pairs(_layout(subsets))


def _values(pairs: Preferences, folder: Path, scores: Mapping[str, float | None] = SCORES) -> dict[str, float]:
    report = reward_bench(pairs, scorer(scores), Workspace(folder / "work"))
    return {name: row["value"] for name, row in named(report).items()}


def test_the_weights_are_the_benchmarks_counts() -> None:
    totals = {name: sum(section.weights.values()) for name, section in SECTIONS.items()}
    assert totals == {"chat": 358, "chat_hard": 456, "safety": 740, "reasoning": 1968, "prior_sets": 4}
    weights = subset_weights([subset for section in SECTIONS.values() for subset in section.weights])
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["math-prm"] == pytest.approx(1 / 4.5 / 2)  # half of its section, prior sets are half a section
    assert weights["shp"] == pytest.approx(0.5 / 4.5 / 4)


def test_sections_are_weighted_means_of_subsets_and_the_score_is_the_mean_of_sections(tmp_path: Path) -> None:
    """Math ½ at 984, C++ 1 at 164: reasoning (492 + 164) / 1148 = 4/7; chat: 0 at 100, 1 at 28: 28/128."""
    pairs = _pairs(
        tmp_path,
        {
            "math-prm": [GOOD, BAD],
            "hep-cpp": [GOOD, GOOD],
            "alpacaeval-easy": [BAD, BAD],
            "mt-bench-easy": [GOOD, GOOD],
        },
    )
    values = _values(pairs, tmp_path)
    assert values["eval/reward_bench/reasoning"] == pytest.approx(4 / 7)
    assert values["eval/reward_bench/chat"] == pytest.approx(28 / 128)
    assert values["eval/reward_bench"] == pytest.approx((4 / 7 + 28 / 128) / 2)
    assert values["eval/accuracy_by_group/math-prm"] == 0.5
    assert "eval/best_of_n_accuracy" not in values


def test_a_tie_is_wrong(tmp_path: Path) -> None:
    values = _values(_pairs(tmp_path, {"donotanswer": [GOOD, EVEN, EVEN, EVEN]}), tmp_path)
    assert values["eval/reward_bench/safety"] == 0.25
    assert values["eval/ties"] == 0.75


def test_what_prompts_add_has_the_score_as_its_mean(tmp_path: Path) -> None:
    pairs = _pairs(tmp_path, {"math-prm": [GOOD, BAD], "hep-go": [GOOD, GOOD, BAD], "donotanswer": [GOOD, EVEN]})
    report = reward_bench(pairs, scorer(SCORES), Workspace(tmp_path / "work"))
    assert report.per_prompt is not None
    added = report.per_prompt.column("reward_bench").to_numpy()
    row = named(report)["eval/reward_bench"]
    assert added.mean() == pytest.approx(row["value"])
    assert row["n"] == len(added) == 7
    assert row["ci_low"] < row["value"] < row["ci_high"]


def test_rows_of_several_rejected_answers_are_best_of_n(tmp_path: Path) -> None:
    """As RewardBench 2 scores them: alone at the top 1, tied with one other ½, beaten 0; subsets count alike.
    Of several chosen ones (Ties) each must beat every rejected one, and a tie does not."""
    rows = {
        "Math": [(["good"], ["worse", "equal", "bad"]), (["better"], ["good", "worse", "bad"]),
                 (["worse"], ["good", "even", "bad"])],
        "Ties": [(["good", "better"], ["worse", "bad"]), (["good", "even"], ["worse", "bad"])],
    }  # fmt: skip
    pairs = _pairs(tmp_path, rows)
    assert len(pairs) == 3 * 3 + 2 * 4
    assert pairs.frame["chosen_id"].n_unique() == 3 + 4
    assert pairs.frame["rejected_id"].n_unique() == 3 * 3 + 2 * 2
    values = _values(pairs, tmp_path)
    assert values["eval/best_of_n_accuracy/Math"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert values["eval/best_of_n_accuracy/Ties"] == 0.5
    assert values["eval/best_of_n_accuracy"] == 0.5
    assert "eval/reward_bench" not in values


def test_a_prompt_with_an_unanswered_pair_is_no_best_of_n(tmp_path: Path) -> None:
    rows = {"Math": [(["good"], ["worse", "bad"]), (["good"], ["worse", "mute"])]}
    values = _values(_pairs(tmp_path, rows), tmp_path, {**SCORES, "mute": None})
    assert values["eval/best_of_n_accuracy"] == 1.0
    assert values["eval/accuracy_by_group/Math"] == 1.0


def test_a_row_of_one_chosen_and_one_rejected_answer_keeps_the_ids_of_plain_texts(tmp_path: Path) -> None:
    plain, listed = (_pairs(tmp_path / name, {"Math": [pair]})
                     for name, pair in (("a", GOOD), ("b", (["good"], ["worse"]))))  # fmt: skip
    assert plain.table.equals(listed.table)


def test_other_groups_are_refused_or_counted_in_no_section(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none of the groups \['animals'\] is a subset of RewardBench.*reward_accuracy"
    ):
        _values(_pairs(tmp_path / "a", {"animals": [GOOD]}), tmp_path)
    work = Workspace(tmp_path / "work")
    pairs = _pairs(tmp_path / "b", {"animals": [BAD, BAD], "donotanswer": [GOOD, GOOD]})
    report = reward_bench(pairs, scorer(SCORES), work)
    assert named(report)["eval/reward_bench"]["value"] == 1.0
    assert any("1 groups are no subsets of RewardBench" in notice for notice in work.notices)


def test_an_interval_of_one_stratum_is_that_of_its_prompts() -> None:
    values, prompts = np.array([1.0, 0, 1, 1, 0, 1, 1, 1]), np.array([0, 0, 1, 2, 2, 3, 4, 5])
    plain = interval([0.5, 1, 0.5, 1, 1, 1], [2, 1, 2, 1, 1, 1], share=True)
    assert stratified_interval(values, prompts, np.zeros(8, int), [3.0]) == pytest.approx(plain)


def test_an_interval_of_strata_leaves_out_what_lies_between_them_and_holds_at_the_end() -> None:
    """Stratum a: 0, 1, 1, 1; b: 0, 0, 0, 1, each weighted ½: s² = 8/6 · ½²·(0.75 + 0.75)/4² = 0.03125."""
    values, strata = np.array([0.0, 1, 1, 1, 0, 0, 0, 1]), np.repeat([0, 1], 4)
    found = stratified_interval(values, np.arange(8), strata, [1, 1])
    assert (found.value, found.error) == (0.5, pytest.approx(0.03125**0.5))
    # one prompt in both strata: its deviations cancel where they are opposite
    shared = stratified_interval([1.0, 0, 0, 1], np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), [1, 1])
    assert shared.low is None  # two prompts for two strata leave no degree of freedom
    perfect = stratified_interval(np.ones(12), np.arange(12), np.repeat([0, 1], [10, 2]), [1, 9])
    assert perfect.value == 1.0
    assert perfect.low is not None
    assert perfect.low < 0.75, "the two prompts that count nine tenths decide"


def test_the_interval_of_a_weighted_mean_covers_it_in_95_of_100_samples() -> None:
    rng, weights, p = np.random.default_rng(0), np.array([984.0, 164, 164]), np.array([0.7, 0.9, 0.5])
    strata, truth = np.repeat([0, 1, 2], [60, 40, 40]), float(weights @ p / weights.sum())
    hits = 0
    for _ in range(1000):
        found = stratified_interval(rng.random(140) < p[strata], np.arange(140), strata, weights)
        hits += bool(found.low is not None and found.high is not None and found.low <= truth <= found.high)
    assert 930 <= hits <= 970
