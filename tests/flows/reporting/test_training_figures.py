"""Figures of trainings: panels of curves, both log-probabilities, and the ticks of their axes."""

import matplotlib
import pytest
from matplotlib.figure import Figure

from flows.python.declared import Declarations
from flows.reporting.figures.likelihoods import MEANINGS, direction, likelihoods, meaning_of
from flows.reporting.figures.style import tick_texts
from flows.reporting.figures.training import Curves, running_mean, training
from tasks.declarations import Curve

matplotlib.use("Agg")

JAGGED = [1.0, 3.0] * 10
DECLARED = {
    "lr": Curve("learning rate", exact=True), "loss": Curve("loss", "nats"),
    "rewards/a": Curve("of a", role="chosen_reward"), "rewards/b": Curve("of b", role="rejected_reward"),
    "margin": Curve("of both", role="margin"), "logps/a": Curve("a", role="chosen"),
    "logps/b": Curve("b", role="rejected"),
}  # fmt: skip


def points(values: list[float]) -> list[tuple[int, float]]:
    return list(enumerate(values))


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def pairs_trained(chosen: list[float], rejected: list[float]) -> Curves:
    rewards = {"rewards/a": points(chosen), "rewards/b": points(rejected)}
    margin = points([a - b for a, b in zip(chosen, rejected, strict=True)])
    logps = {"logps/a": points([a - 10 for a in chosen]), "logps/b": points([b - 10 for b in rejected])}
    return {**rewards, "margin": margin, **logps}


def test_an_exact_curve_is_never_smoothed_however_often_it_turns_and_a_measured_one_is() -> None:
    figure = drawn(training({"policy": {"lr": points(JAGGED), "loss": points(JAGGED)}}, DECLARED, "mine"))
    rate, loss = figure.axes
    assert [list(line.get_ydata()) for line in rate.lines] == [JAGGED]  # type: ignore[arg-type]
    assert len(loss.lines) == 2
    assert (rate.get_title(), loss.get_title()) == ("Learning rate", "Loss")
    assert loss.get_ylabel() == "nats"
    assert "a line without a pale one is not smoothed" in figure.texts[-1].get_text()


def test_a_short_curve_is_not_smoothed_and_one_that_never_changes_stands_on_an_axis_from_0() -> None:
    figure = drawn(training({"policy": {"lr": points([3e-4] * 3), "loss": points(JAGGED[:-1])}}, DECLARED, ""))
    rate, loss = figure.axes
    assert rate.get_ylim() == pytest.approx((0, 6e-4))
    assert len(loss.lines) == 1
    assert figure.texts[-1].get_text() == "lines: the value of every optimizer step"


def test_a_running_mean_begins_and_ends_on_the_line_through_its_window() -> None:
    """Over one value to either side, the ends are those of the line through two values; over two, of that through
    8, 4, 3: mean 5, slope −2½, so 7½ at its start; a straight line stays as it is."""
    assert running_mean([8.0, 4.0, 3.0, 2.0, 7.0], 1) == [8.0, 5.0, 3.0, 4.0, 7.0]
    assert running_mean([8.0, 4.0, 3.0, 2.0, 7.0], 2)[0] == 7.5
    assert running_mean([1.0, 2.0, 3.0, 4.0, 5.0], 2) == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0])
    assert running_mean([], 3) == []


def test_both_log_probabilities_are_drawn_round_after_round_beside_rewards_and_margin() -> None:
    round = pairs_trained([0.0, -1.0, -2.0, -3.0], [0.0, -2.0, -4.0, -6.0])
    figure = drawn(likelihoods({"round 1 · policy": round, "round 2 · policy": round}, DECLARED, "mine"))
    logps, rewards = figure.axes
    assert [list(line.get_xdata()) for line in logps.lines[:4]] == [[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2  # type: ignore[arg-type]
    assert list(logps.lines[3].get_ydata()) == [-10, -12, -14, -16]  # type: ignore[arg-type]
    assert list(rewards.lines[2].get_ydata()) == [0, 1, 2, 3]  # type: ignore[arg-type]
    assert logps.get_ylabel() == "log π(answer), nats per answer"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "chosen", "rejected", "margin, chosen − rejected",
    ]  # fmt: skip
    assert figure.texts[-1].get_text().replace("\n", " ").startswith("In the last round, both fall: chosen answers")


def test_a_training_without_rejected_answers_has_no_such_figure_and_one_without_rewards_has_one_panel() -> None:
    logps = {"logps/a": points([-1.0, -2.0]), "logps/b": points([-1.0, -3.0])}
    assert len(drawn(likelihoods({"policy": logps}, DECLARED, "")).axes) == 1
    assert likelihoods({"policy": {"logps/a": points([-1.0, -2.0])}}, DECLARED, "") is None


@pytest.mark.parametrize(
    ("values", "way"),
    [
        ([0.0, 0.1, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 1.0, 1.1], "rise"), ([3.0, 2.0, 1.0, 0.0], "fall"),
        ([0.0, 2.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 1.0, 3.0], "stay"), ([1.0, 2.0, 3.0], "stay"),
    ],
)  # fmt: skip
def test_a_direction_is_that_of_the_ends_beyond_twice_their_error(values: list[float], way: str) -> None:
    """First and last two of ten: 0, 0.1 and 1, 1.1 differ by 1 with an error of 0.07; 0, 2 and 1, 3 with one of √2."""
    assert direction(values) == way


def test_the_caption_is_by_rewards_whose_noise_is_smaller_than_that_of_log_probabilities() -> None:
    falling, rising = points([4.0, 3.0, 2.0, 1.0]), points([1.0, 2.0, 3.0, 4.0])
    roles = {"chosen": rising, "rejected": rising, "chosen_reward": falling, "rejected_reward": falling}
    assert meaning_of([roles]) == MEANINGS["fall", "fall"]
    assert meaning_of([{"chosen": rising, "rejected": falling}]) == MEANINGS["rise", "fall"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0, 1e-7, 2e-7], ["0", "1×10⁻⁷", "2×10⁻⁷"]), ([0, 2.5e-4, 5e-4], ["0", "2.5×10⁻⁴", "5.0×10⁻⁴"]),
        ([1000.001, 1000.002], ["1,000.001", "1,000.002"]), ([-0.5, 0.0, 0.5], ["−0.5", "0", "0.5"]),
        ([0, 5e6], ["0", "5×10⁶"]), ([0, 20, 40], ["0", "20", "40"]), ([], []),
    ],
)  # fmt: skip
def test_ticks_are_whole_numbers_without_an_offset(values: list[float], texts: list[str]) -> None:
    assert tick_texts(values) == texts


def test_every_shipped_training_that_shows_its_learning_rate_calls_it_exact() -> None:
    rates = {task: curves["lr"] for task, curves in Declarations().all_of("curves") if "lr" in curves}
    assert len(rates) >= 6
    assert all(curve.exact for curve in rates.values())
