"""The reliability diagram: what it draws of a report's bins, and where there is nothing to draw."""

import matplotlib

from flows.reporting.bins import Bin
from flows.reporting.figures.reliability import reliability_figure
from flows.reporting.results import Estimate, ResultRow, RunResults
from flows.reporting.sinks.mlflow_sink import allowed_name
from tasks.declarations import Metric

matplotlib.use("Agg")


def _results(groups: int = 0) -> RunResults:
    bins = (
        Bin("confidence", 0.5, 0.55, 6, 0.52, 0.5, 0.3, 0.7), Bin("confidence", 0.9, 0.95, 2, 0.93, 1.0, None, None),
        Bin("margin", -1.0, 0.0, 3, None, None, None, None), Bin("margin", 0.0, 1.0, 5, None, None, None, None),
    )  # fmt: skip
    metrics = {"eval/a": Estimate(0.62, 0.5, 0.7, 8, "probability", Metric("a", ranks=True))}
    metrics |= {
        f"eval/by_group/g/{i}": Estimate(0.5 + i / 10, 0.4, 0.9, 4, "probability", Metric(role="group"))
        for i in range(groups)
    }
    return RunResults(None, (ResultRow("report", None, metrics, bins=bins),), ())


def test_it_shows_accuracy_at_mean_confidence_counts_margins_and_groups() -> None:
    figure = reliability_figure(_results(groups=2), "mine")
    assert figure is not None
    diagram, counts, margins, groups = figure.axes
    points = next(line for line in diagram.lines if line.get_marker() == "o")
    assert points.get_xydata().tolist() == [[0.52, 0.5], [0.93, 1.0]]  # type: ignore[union-attr]
    assert [text.get_text() for text in counts.texts] == ["6", "2"]
    assert [patch.get_height() for patch in margins.patches] == [3, 5]  # type: ignore[attr-defined]
    assert [text.get_text() for text in margins.texts] == ["against\nthe label\n38.0%", "with\nthe label\n62.0%"]
    assert [label.get_text() for label in groups.get_yticklabels()] == ["g/0\n4 prompts", "g/1\n4 prompts"]


def test_without_groups_it_has_no_panel_for_them_and_without_bins_there_is_no_figure() -> None:
    figure = reliability_figure(_results(), "mine")
    assert figure is not None
    assert len(figure.axes) == 3
    assert reliability_figure(RunResults(None, (ResultRow("report", None, {}),), ()), "mine") is None


def test_a_metrics_name_has_no_characters_that_mlflow_refuses() -> None:
    assert allowed_name("eval/accuracy_by_group/place+food (a)") == "eval/accuracy_by_group/place_food _a_"
