"""Groups of prompts: means by group, weights that move to the worst, rows that follow them."""

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.contract import DataError
from tasks.groups import by_group, group_weights, weigh_groups
from tasks.kinds import Preferences, Prompts, Report
from tests.answers import named, rows, win_probs
from tests.tasks.training.tables import preferences
from tests.workspace import Workspace


def prompts(groups: dict[str, str | None]) -> Prompts:
    return Prompts.of(pl.DataFrame([
        {"prompt_id": one, "prompt": [{"role": "user", "content": one, "extra": None}], "truth": None, "group": group,
         "weight": None} for one, group in groups.items()
    ], schema_overrides={"truth": pl.String, "weight": pl.Float64}))  # fmt: skip


def report(values: dict[str, float | None], metric: str = "win_rate") -> Report:
    row = {"name": f"eval/{metric}", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": len(values), "unit": "share"}
    table = pl.DataFrame({"prompt_id": list(values), metric: list(values.values())})
    return Report.of(pl.DataFrame([row])).with_per_prompt(table)


def test_the_worst_group_is_the_one_with_the_lowest_mean_and_all_other_rows_stay(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    measured = report({"a": 0.9, "b": 0.7, "c": 0.2, "d": 0.4, "e": None})
    found = by_group(measured, prompts({"a": "x", "b": "x", "c": "y", "d": "y", "e": "y"}), work)
    values = {name: row["value"] for name, row in named(found).items()}
    expected = {"eval/win_rate": 0.5, "eval/group/x": 0.8, "eval/group/y": 0.3, "eval/worst_group": 0.3}
    assert values == pytest.approx(expected)
    assert named(found)["eval/worst_group"]["n"] == 2
    assert named(found)["eval/worst_group"]["ci_low"] < 0.3 < named(found)["eval/worst_group"]["ci_high"]
    assert "the worst of 2 groups is y" in work.notices
    assert found.per_prompt == measured.per_prompt


def test_prompts_without_a_group_are_one_and_foreign_prompts_are_counted(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    found = by_group(report({"a": 0.9, "b": 0.1, "z": 0.0}), prompts({"a": "x", "b": None}), work)
    assert {name: row["value"] for name, row in named(found).items()}["eval/group/none"] == pytest.approx(0.1)
    assert any("1 of 3 prompts of `report` are not among `prompts`" in text for text in work.notices)


@pytest.mark.parametrize(("groups", "metric", "match"), [
    ({"a": None}, "win_rate", "no prompt has a group"),
    ({"q": "x"}, "win_rate", "none of the 1 prompts of `report` is among the 1 of `prompts`"),
    ({"a": "x"}, "accuracy", r"no values of 'accuracy' by prompt; it has \['win_rate'\]"),
])  # fmt: skip
def test_groups_that_cannot_be_measured_are_an_error(
    groups: dict[str, str | None], metric: str, match: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=match):
        by_group(report({"a": 0.9}), prompts(groups), Workspace(tmp_path), quantity=metric)


def grouped(means: dict[str, float]) -> Report:
    return Report.of(pl.DataFrame([
        {"name": f"eval/group/{group}", "value": x, "ci_low": 0.0, "ci_high": 1.0, "n": 4, "unit": "share"}
        for group, x in means.items()
    ]))  # fmt: skip


def weights_of(found: Report) -> dict[str, float]:
    return {row["name"].removeprefix("eval/group_weight/"): row["value"] for row in rows(found)}


def test_weights_move_to_the_group_that_loses_and_remember_the_rounds_before(tmp_path: Path) -> None:
    """Two rounds at step 2: losses add up to .2 + .3 = .5 and .6 + .4 = 1, so the odds are e^(2·.5)."""
    first = group_weights(grouped({"x": 0.8, "y": 0.4}), Workspace(tmp_path / "1"), step=2.0)
    assert weights_of(first) == pytest.approx({"x": 1 / (1 + math.exp(0.8)), "y": 1 / (1 + math.exp(-0.8))})
    second = weights_of(group_weights(grouped({"x": 0.7, "y": 0.6}), Workspace(tmp_path / "2"), first, step=2.0))
    assert second["y"] / second["x"] == pytest.approx(math.exp(2 * 0.5))
    assert sum(second.values()) == pytest.approx(1)


def test_equal_groups_and_a_step_of_0_leave_the_weights_equal(tmp_path: Path) -> None:
    for means, step in (({"x": 0.5, "y": 0.5}, 9.0), ({"x": 0.1, "y": 0.9}, 0.0)):
        assert weights_of(group_weights(grouped(means), Workspace(tmp_path), step=step)) == {"x": 0.5, "y": 0.5}


def test_weights_of_other_groups_or_means_that_are_no_shares_are_an_error(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    with pytest.raises(DataError, match="must be in"):
        group_weights(grouped({"x": 1.4}), work)
    with pytest.raises(DataError, match="it must come from `by_group`"):
        group_weights(report({"a": 0.5}), work)
    before = group_weights(grouped({"z": 0.5}), work)
    with pytest.raises(DataError, match=r"has weights of \['z'\], and `report` has the groups \['x'\]"):
        group_weights(grouped({"x": 0.5}), work, before)


def in_groups(groups: list[str | None], weights: list[float | None]) -> Preferences:
    table = preferences(len(groups)).frame
    return Preferences.of(table.with_columns(group=pl.Series(groups), weight=pl.Series(weights)).to_arrow())


def test_the_weighted_mean_of_rows_is_the_weighted_mean_of_groups() -> None:
    """Three rows of x and one of y with shares .25 and .75: 4·.25/3 each, and 4·.75."""
    shares = Report.of(pl.DataFrame([
        {"name": f"eval/group_weight/{g}", "value": v, "ci_low": None, "ci_high": None, "n": 1, "unit": "share"}
        for g, v in (("x", 0.25), ("y", 0.75))
    ], schema_overrides={"ci_low": pl.Float64, "ci_high": pl.Float64}))  # fmt: skip
    found = weigh_groups(in_groups(["x", "y", "x", "x"], [None] * 4), shares)
    assert [row["weight"] for row in rows(found)] == pytest.approx([1 / 3, 3, 1 / 3, 1 / 3])
    own = weigh_groups(in_groups(["x", "y", "x", "x"], [2.0, 5.0, 1.0, 1.0]), shares)
    assert [row["weight"] for row in rows(own)] == pytest.approx([0.5, 3, 0.25, 0.25])
    with pytest.raises(
        DataError, match=r"the rows have the groups \['x', 'z'\], and there are weights of \['x', 'y'\]"
    ):
        weigh_groups(in_groups(["x", "z"], [None, None]), shares)
    questions: Any = win_probs([("x", "a", "b", 0.5)])
    with pytest.raises(DataError, match="a WinProbs has no columns"):
        weigh_groups(questions, shares)


def test_a_groups_name_may_have_any_sign(tmp_path: Path) -> None:
    found = by_group(report({"a": 0.9, "b": 0.1}), prompts({"a": "x+y", "b": "x 0.5, y 0.5"}), Workspace(tmp_path))
    assert {"eval/group/x+y", "eval/group/x 0.5, y 0.5"} <= named(found).keys()
    weights = group_weights(found, Workspace(tmp_path / "weights"), step=0)
    weighed = weigh_groups(in_groups(["x+y", "x 0.5, y 0.5"], [None, None]), weights)
    assert [row["weight"] for row in rows(weighed)] == [1, 1]
