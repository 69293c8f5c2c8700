"""Agreement with held-out pairs, worked by hand."""

from math import sqrt
from pathlib import Path

import polars as pl
import pytest

from tasks.agree import implicit_accuracy
from tasks.contract import DataError
from tasks.kinds import Logps, Preferences
from tests.answers import named
from tests.workspace import Workspace


def _pairs(prompts: list[str]) -> Preferences:
    n = range(len(prompts))
    return Preferences.of(pl.DataFrame({
        "prompt_id": prompts, "prompt": [[{"role": "user", "content": p}] for p in prompts],
        "chosen_id": [f"c{i}" for i in n], "rejected_id": [f"r{i}" for i in n], "chosen": ["x"] * len(prompts),
        "rejected": ["y"] * len(prompts),
    }))  # fmt: skip


def _logps(prompts: list[str], chosen: list[float], rejected: list[float], lengths: tuple[int, int]) -> Logps:
    rows = [
        (prompts[i], f"{side}{i}", value, length)
        for i in range(len(prompts))
        for side, value, length in (("c", chosen[i], lengths[0]), ("r", rejected[i], lengths[1]))
    ]
    return Logps.of(pl.DataFrame(rows, ["prompt_id", "completion_id", "logps", "lengths"], orient="row"))


def test_accuracy_margin_and_interval_are_those_worked_by_hand(tmp_path: Path) -> None:
    prompts = ["p", "p", "q", "s"]
    policy = _logps(prompts, [-1.0, -2.0, -4.0, -3.0], [-3.0, -3.0, -3.0, -3.0], (5, 3))
    ref = _logps(prompts, [-2.0, -2.0, -3.0, -3.0], [-3.0, -2.0, -3.0, -3.0], (5, 3))
    # delta = (1 − 0), (0 − −1), (−1 − 0), (0 − 0) = 1, 1, −1, 0; right: 1, 1, 0, ½
    report = implicit_accuracy(_pairs(prompts), policy, ref, Workspace(tmp_path))
    rows = named(report)
    accuracy = rows["eval/accuracy"]
    assert accuracy["value"] == pytest.approx(2.5 / 4)
    assert rows["eval/margin"]["value"] == pytest.approx(1 / 4)
    assert rows["eval/chosen_longer"]["value"] == 1
    assert accuracy["n"] == 3
    # totals 2, 0, ½ of 2, 1, 1 pairs at .625: residuals .75, −.625, −.125; three prompts; t(2, .975)
    error = sqrt((0.75**2 + 0.625**2 + 0.125**2) * 3 / 2) / 4
    for end in (accuracy["ci_low"], accuracy["ci_high"]):  # Wilson's: (m − p)² = t²·p(1 − p)·⅔s²/(m(1 − m))
        by_hand = 4.302652729911275 * error * sqrt(end * (1 - end) * 2 / 3 / (0.625 * 0.375))
        assert abs(0.625 - end) == pytest.approx(by_hand)
    half = 4.302652729911275 * sqrt((1.5**2 + 1.25**2 + 0.25**2) * 3 / 2) / 4
    assert rows["eval/margin"]["ci_high"] - 0.25 == pytest.approx(half), "Student's"
    assert report.per_prompt is not None
    assert report.per_prompt.column("accuracy").to_pylist() == [1.0, 0.0, 0.5]


def test_a_policy_agrees_with_half_against_itself(tmp_path: Path) -> None:
    same = _logps(["p", "q"], [-1.0, -2.0], [-3.0, -3.0], (2, 2))
    work = Workspace(tmp_path)
    report = implicit_accuracy(_pairs(["p", "q"]), same, same, work, allow_seen=True)
    assert "allow_seen" in work.notices[0]
    assert {name: row["value"] for name, row in named(report).items()} == {
        "eval/accuracy": 0.5,
        "eval/margin": 0.0,
        "eval/chosen_longer": 0.5,
    }


def test_ids_that_do_not_match_are_an_error(tmp_path: Path) -> None:
    logps = _logps(["p"], [-1.0], [-3.0], (2, 2))
    with pytest.raises(DataError, match="1 chosen answers of 2 pairs have no log-probability under the policy"):
        implicit_accuracy(_pairs(["p", "q"]), logps, logps, Workspace(tmp_path))
