"""What the benchmarks of reinforcement learning count."""

from pathlib import Path

import pytest

from benchmarks.rare_answer import wilson
from benchmarks.reinforcing import SIDES, parts_of, with_speed
from benchmarks.sides.grpo import StepTimes, Work, score


def test_an_answer_is_worth_its_share_of_even_words() -> None:
    assert score("w4 w5 w6 w8") == 0.75
    assert score("") == 0
    assert score("<pad> w4") == 0.5


def test_a_speed_counts_the_tokens_that_were_drawn_and_not_the_longest_answers() -> None:
    row = {"name": "", "case": {}, "step_seconds": 2.0, "step_cpu_seconds": 4.0, "mean_length": 9.0}
    made = with_speed(row, Work(prompts=2, k=3, answer=10, steps=5))
    assert made["tokens_per_second"] == 27
    assert made["tokens_per_cpu_second"] == 13.5
    assert with_speed({"name": "", "skipped": "TRL is not installed"}, Work(1, 1, 1, 1)).keys() == {"name", "skipped"}


def test_the_first_step_and_its_parts_do_not_count() -> None:
    times = StepTimes()
    with times.part("draw"):
        pass
    times.step_ended()
    with times.part("score"):
        pass
    times.step_ended()
    result = times.result([100.0, 4.0], [0.5, 0.6])
    assert result["mean_length"] == 4
    assert result["shares"].keys() == {"score"}
    assert 0 < result["shares"]["score"] < 1


def test_what_no_part_counts_is_the_rest() -> None:
    row = {"case": {"beta": 0.0}, "name": "alignflow", "step_seconds": 2.0, "shares": {"draw": 0.5, "update": 0.3}}
    assert parts_of([row, {"name": "TRL", "skipped": ""}]).endswith("2.00 s: draw 50%, update 30%, rest 20%")


def test_every_side_has_its_module() -> None:
    for _, module, _ in SIDES.values():
        assert (Path(__file__).parents[2] / "benchmarks" / "sides" / f"{module}.py").exists()


def test_an_interval_of_a_share_does_not_vanish_at_its_ends() -> None:
    """0 of 20: up to z²/(n + z²) = 3.8415/23.8415. 10 of 20: 0.2993 to 0.7007."""
    assert wilson(0, 20) == pytest.approx((0, 0.16113), abs=1e-5)
    assert wilson(10, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)
