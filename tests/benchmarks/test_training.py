"""The sides of benchmarks/training.py train the same thing."""

import argparse
from pathlib import Path

import pytest

from benchmarks.training import SIDES, cells, largest_difference, measured_rows, options_of, with_speeds


def test_lists_are_measured_in_every_combination() -> None:
    options = options_of(["--shape", "20m", "--prompt", "50,500", "--pairs", "64,512"])
    assert [(c["prompt"], c["pairs"]) for c in cells(options)] == [(50, 64), (50, 512), (500, 64), (500, 512)]


@pytest.mark.parametrize("arguments", [["--sides", "alignflo"], ["--shape", "21m"]])
def test_an_unknown_side_or_shape_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options_of(arguments)
    assert "choose from" in capsys.readouterr().err


def test_the_first_step_is_in_neither_tokens_nor_seconds_of_the_steps() -> None:
    row = with_speeds({"seconds": 10.0, "step_seconds": 2.0}, {"read": 800}, pairs=64)
    assert row["all_tokens_per_second"] == 80
    assert row["step_tokens_per_second"] == 800 * 7 / 8 / 2


def test_losses_are_compared_within_a_case() -> None:
    rows = [
        {"case": {"pairs": 8}, "losses": [0.7, 0.6]}, {"case": {"pairs": 8}, "losses": [0.7, 0.5]},
        {"case": {"pairs": 16}, "losses": [0.1, 0.1]}, {"case": {"pairs": 8}, "error": "…"},
    ]  # fmt: skip
    assert largest_difference(rows) == pytest.approx(0.1)


@pytest.mark.slow
def test_all_sides_that_are_installed_reach_the_same_losses(tmp_path: Path) -> None:
    sides = "hand-written,alignflow,floor,trl-1x8"
    options = options_of(["--shape", "tiny", "--prompt", "12", "--answer", "14", "--pairs", "24", "--sides", sides])
    assert isinstance(options, argparse.Namespace)
    rows = list(measured_rows(options))
    assert [row["name"] for row in rows] == [SIDES[side][0] for side in sides.split(",")]
    assert not [row for row in rows if "error" in row]
    apart = largest_difference(rows)
    assert apart is not None
    assert apart < 1e-5
    for row in rows[:3]:
        assert row["seconds"] > row["step_seconds"] > 0
