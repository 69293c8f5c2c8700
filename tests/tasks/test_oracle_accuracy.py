"""reward_accuracy of any oracle: what compares, in one order or both; calibration, groups and bins worked by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.agree import reward_accuracy
from tasks.contract import DataError
from tasks.judging.calibration import calibration_errors
from tasks.kinds import Oracle, Preferences, Report
from tests.answers import Judge, named, scorer
from tests.workspace import Workspace


def _pairs(texts: str, groups: str | None = None, **columns: Any) -> Preferences:
    """One pair `x` over `X` for each letter, each of a prompt of its own."""
    rows = [
        {"prompt_id": x, "prompt": [{"role": "user", "content": x}], "chosen_id": f"c{i}", "rejected_id": f"r{i}",
         "chosen": x, "rejected": x.upper(), "group": groups[i] if groups else None,
         **{name: values[i] for name, values in columns.items()}}
        for i, x in enumerate(texts)
    ]  # fmt: skip
    return Preferences.of(pa.Table.from_pylist(rows, Preferences.SCHEMA))


def test_both_orders_are_queried_and_averaged_and_the_order_is_reported(tmp_path: Path) -> None:
    """P(first wins): a .8, A .4: P(a) = mean of .8 and .6 = .7, consistent; b .9, B .7: mean of .9 and .3 = .6, the
    first wins twice; c .5, C .5: a tie in both."""
    table = {("a", "A"): 0.8, ("A", "a"): 0.4, ("b", "B"): 0.9, ("B", "b"): 0.7, ("c", "C"): 0.5, ("C", "c"): 0.5}
    judge, work = Judge(table, antisymmetric=False), Workspace(tmp_path)
    report = named(reward_accuracy(_pairs("abc"), judge, work))
    assert work.totals == {"queries": 6, "unanswered": 0}
    assert report["eval/accuracy"]["value"] == pytest.approx(2.5 / 3)
    assert report["eval/margin"]["value"] == pytest.approx((np.log(7 / 3) + np.log(6 / 4)) / 3)
    assert report["eval/margin"]["unit"] == "nats"
    assert report["eval/nll"]["value"] == pytest.approx(-np.log([0.7, 0.6, 0.5]).mean())
    assert report["eval/order_consistency"]["value"] == pytest.approx(2 / 3)
    # a first: won, and lost as the second's rival: (1 + 0)/2; b: 1; c: two ties, which count in neither way
    assert report["eval/first_position"]["value"] == pytest.approx((0.5 + 1) / 2)


def test_an_antisymmetric_oracle_is_queried_once_and_has_no_order(tmp_path: Path) -> None:
    judge, work = Judge({("a", "A"): 1.0, ("b", "B"): 0.25}, antisymmetric=True), Workspace(tmp_path)
    report = named(reward_accuracy(_pairs("ab"), judge, work))
    assert work.totals["queries"] == 2
    assert report["eval/accuracy"]["value"] == 0.5
    assert "eval/order_consistency" not in report
    assert np.isfinite(report["eval/nll"]["value"]), "a probability of 1 lies 1e-9 below it"


def test_what_an_oracle_leaves_unanswered_is_counted_and_one_order_is_enough(tmp_path: Path) -> None:
    table = {("a", "A"): 0.8, ("A", "a"): None, ("b", "B"): None, ("B", "b"): None}
    work = Workspace(tmp_path)
    report = named(reward_accuracy(_pairs("ab"), Judge(table, antisymmetric=False), work))
    assert report["eval/accuracy"]["value"] == 1.0
    assert report["eval/accuracy"]["n"] == 1
    assert work.totals == {"queries": 4, "unanswered": 3}
    assert any("1 of 2 pairs left out: the oracle did not answer" in notice for notice in work.notices)
    with pytest.raises(DataError, match="none of 1 pairs has an answer of the oracle"):
        reward_accuracy(_pairs("b"), Judge(table, antisymmetric=False), Workspace(tmp_path / "none"))


@pytest.mark.parametrize("p", [1.5, -0.1, float("nan")])
def test_a_judgement_that_is_no_probability_is_refused(p: float, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a probability is in \[0, 1\]"):
        reward_accuracy(_pairs("a"), Oracle.of(compare=lambda *_: [p]), Workspace(tmp_path))


def test_scores_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="use None for no answer"):
        reward_accuracy(_pairs("a"), scorer({"a": float("nan"), "A": 0.0}), Workspace(tmp_path))


def test_labels_outside_of_probabilities_are_refused(tmp_path: Path) -> None:
    pairs = _pairs("ab", p=[0.5, 1.25])
    with pytest.raises(
        DataError, match=r"1 of 2 pairs have a label probability p outside \[0, 1\], the first is 1\.25"
    ):
        reward_accuracy(pairs, scorer({"a": 1, "A": 0, "b": 1, "B": 0}), Workspace(tmp_path))


def test_equal_sides_count_one_half_with_a_notice(tmp_path: Path) -> None:
    pairs, work = _pairs("a1"), Workspace(tmp_path)
    report = named(reward_accuracy(pairs, Judge({("a", "A"): 0.9, ("A", "a"): 0.1}, antisymmetric=False), work))
    assert report["eval/accuracy"]["value"] == 0.75
    assert work.notices == ["1 of 2 pairs have equal sides: they count one half for every oracle"]


def test_a_change_is_between_oracles_of_any_kind(tmp_path: Path) -> None:
    now, before = (
        Judge({("a", "A"): 0.9, ("b", "B"): 0.8}, antisymmetric=True),
        scorer({"a": 1, "A": 0, "b": 0, "B": 1}),
    )
    report = named(reward_accuracy(_pairs("ab"), now, Workspace(tmp_path), before))
    assert report["eval/accuracy_change"]["value"] == 0.5


def test_each_group_has_its_accuracy_with_an_interval_the_largest_first(tmp_path: Path) -> None:
    scores = dict.fromkeys("abc", 1.0) | {x.upper(): 0.0 for x in "abc"} | {"d": 0.0, "D": 1.0}
    report = reward_accuracy(_pairs("abcd", groups="yxxx"), scorer(scores), Workspace(tmp_path))
    rows = [row for row in report.table.to_pylist() if "group" in row["name"]]
    assert [(row["name"], row["n"]) for row in rows] == [
        ("eval/accuracy_by_group/x", 3), ("eval/accuracy_by_group/y", 1)
    ]  # fmt: skip
    assert rows[0]["value"] == pytest.approx(2 / 3)
    assert rows[0]["ci_low"] < 2 / 3 < rows[0]["ci_high"]
    assert rows[1]["ci_low"] is None, "one prompt has no interval"
    one = reward_accuracy(_pairs("ab", groups="xx"), scorer(scores), Workspace(tmp_path / "one"))
    assert not any("group" in name for name in named(one))


def test_calibration_errors_are_those_worked_by_hand() -> None:
    """Two bins: width: {.55, .6, .65} with ⅔ right, gap .0667, and {.95}, wrong, gap .95. Mass: {.55, .6}, all right,
    gap .425; {.65, .95}, none right, gap .8."""
    confidence, correct = np.array([0.55, 0.95, 0.6, 0.65]), np.array([1.0, 0.0, 1.0, 0.0])
    errors = calibration_errors(confidence, correct, bins=2)
    assert errors.ece == pytest.approx(0.75 * (2 / 3 - 0.6) + 0.25 * 0.95)
    assert errors.mce == pytest.approx(0.95)
    assert errors.ace == pytest.approx((0.425 + 0.8) / 2)


def test_equal_confidences_stay_in_one_bin_whatever_the_order_of_the_rows() -> None:
    correct = np.array([1.0, 1, 1, 0, 0, 0])
    for order in (np.arange(6), np.array([0, 3, 1, 4, 2, 5])):
        errors = calibration_errors(np.full(6, 0.5), correct[order])
        assert errors == pytest.approx((0.0, 0.0, 0.0))


def test_bins_hold_every_pair_once(tmp_path: Path) -> None:
    scores = {"a": 2.0, "b": 0.3, "c": -1.2} | {x.upper(): 0.0 for x in "abc"}
    folder = tmp_path / "report"
    folder.mkdir()
    reward_accuracy(_pairs("abc"), scorer(scores), Workspace(tmp_path / "w")).save(folder)
    bins = Report(folder).bins
    assert bins is not None
    rows = bins.to_pylist()
    sure, margins = ([r for r in rows if r["name"] == name] for name in ("confidence", "margin"))
    # σ(.3) = .574, σ(1.2) = .769 (wrong), σ(2) = .881
    assert [(r["low"], r["count"], r["value"]) for r in sure] == [
        (pytest.approx(0.55), 1, 1.0), (pytest.approx(0.75), 1, 0.0), (pytest.approx(0.85), 1, 1.0)
    ]  # fmt: skip
    assert sum(r["count"] for r in margins) == 3
    assert (margins[0]["low"], margins[-1]["high"], len(margins)) == (-2.0, 2.0, 20)
    assert [r["count"] for r in margins if r["low"] <= -1.2 < r["high"]] == [1]
