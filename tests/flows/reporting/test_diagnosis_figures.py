"""Figures of diagnoses: histograms, what was measured bin by bin, matrices, the probe."""

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from flows.reporting.bins import Bin, read_bins
from flows.reporting.figures.bins_figure import bins_figure, histograms_of, names_of_figures
from flows.reporting.figures.correlation_matrix import correlation_figure
from flows.reporting.figures.policy_matrix import policy_matrix
from flows.reporting.figures.probe_figure import probe_figure
from flows.reporting.results import Estimate, ResultRow, RunResults
from flows.store.store import Store
from tasks.declarations import Binned, Metric
from tasks.kinds import Report
from tests.flows.evaluated import of_task
from tests.flows.store.made import put

matplotlib.use("Agg")

RATES = Binned("Win rates", "win rate", reference=0.5)
RATIO = Binned("Ratio", "length, tokens", value="nats", reference=0.0)
LENGTH = Binned("Length", "ρ", of="prompts", metric="eval/m")


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def rounds(shown: Binned, name: str = "r", n: int = 2, value: float | None = None) -> RunResults:
    """Reports of `n` rounds; in round i the first of two bins holds i answers, the second 4 − i."""
    rows = [
        ResultRow(f"round {i}", i, {"eval/m/a": Estimate(0.25, 0.1, 0.4, 9, "correlation")}, bins=(
            Bin(name, 0.0, 0.5, i, 0.2, value, value, value, shown),
            Bin(name, 0.5, 1.0, 4 - i, 0.7, value, None, None, shown),
        )) for i in range(1, n + 1)
    ]  # fmt: skip
    return RunResults(None, (), tuple(rows))


def test_a_histogram_of_each_round_shows_shares_on_one_axis() -> None:
    [(shown, histograms)] = histograms_of(rounds(RATES)).items()
    figure = drawn(bins_figure(shown, histograms, "sppo"))
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]  # type: ignore[attr-defined]
    assert heights == [[0.25, 0.75], [0.5, 0.5]]
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["round 1", "round 2"]
    assert (figure.axes[-1].get_xlabel(), figure.get_supylabel()) == ("win rate", "share of answers")
    assert figure.texts[-1].get_text() == "4 answers each; dashed: 0.5"


def test_a_histogram_names_the_longer_part_and_the_mean_of_its_report() -> None:
    results = rounds(LENGTH, "m/a", n=1)
    [(shown, histograms)] = histograms_of(results).items()
    assert names_of_figures({shown: histograms}) == {"m": LENGTH}
    figure = drawn(bins_figure(shown, histograms, ""))
    assert figure.axes[0].texts[0].get_text() == "round 1 · a: mean +0.25 (+0.10 to +0.40)"
    assert figure.texts[-1].get_text() == "4 prompts; in brackets: 95% interval over prompts"


def test_what_was_measured_stands_at_the_mean_of_each_bin_with_its_interval() -> None:
    [(shown, histograms)] = histograms_of(rounds(RATIO, value=1.5)).items()
    upper, lower = drawn(bins_figure(shown, histograms, "")).axes
    points = [line for line in upper.lines if line.get_marker() == "o"]
    assert [line.get_xydata().tolist() for line in points] == [[[0.2, 1.5], [0.7, 1.5]]] * 2  # type: ignore[union-attr]
    assert [bar.get_height() for bar in lower.patches] == [1, 1]  # type: ignore[attr-defined]
    assert (upper.get_ylabel(), lower.get_xlabel(), lower.get_ylabel()) == ("nats", "length, tokens", "answers")


def test_of_many_rounds_eight_are_shown_with_the_first_and_the_last() -> None:
    [(shown, histograms)] = histograms_of(rounds(RATES, n=30)).items()
    labels = [axes.texts[0].get_text() for axes in drawn(bins_figure(shown, histograms, "")).axes]
    assert len(labels) == 8
    assert (labels[0], labels[-1]) == ("round 1", "round 30")


def test_bins_have_what_their_task_declares_of_them(tmp_path: Path) -> None:
    """Those of an oracle's reliability have a figure of their own."""
    store = Store(tmp_path / "artifacts")
    report = Report.of(pa.table({"name": ["eval/x"], "value": [0.5], "n": [2], "unit": ["share"]}))
    names = ("length_correlation/gold", "length_correlations", "confidence")
    rows = [{"name": name, "low": 0.0, "high": 1.0, "count": 3} for name in names]
    shown = [b.shown for b in read_bins(store, put(store, report.with_bins(rows), "correlations"))]
    assert [s.of if s else None for s in shown] == ["prompts", None, None]


def correlated(within: bool = True) -> RunResults:
    e = Estimate(0.4, 0.3, 0.5, 64, "correlation")
    metrics = {"eval/correlation/gold/length": e, "eval/correlation/gold/judge": replace(e, value=-0.7)}
    if within:
        metrics["eval/correlation_within/gold/length"] = replace(e, value=0.1)
    return RunResults(None, (), (ResultRow("report", None, of_task("correlations", metrics)),))


def test_correlations_have_a_number_with_its_interval_in_both_cells_and_a_matrix_within_prompts() -> None:
    left, right = drawn(correlation_figure(correlated(), "mine")).axes
    nan = np.nan
    np.testing.assert_allclose(
        np.asarray(left.images[0].get_array(), float), [[nan, 0.4, -0.7], [0.4, nan, nan], [-0.7, nan, nan]]
    )
    assert [t.get_text() for t in left.texts] == [".40", ".30 to .50", "−.70", ".30 to .50", *[".40", ".30 to .50"],
                                                  "−.70", ".30 to .50"]  # fmt: skip
    assert (left.get_title(), right.get_title()) == ("Over all answers", "Among the answers to a prompt")
    assert len(drawn(correlation_figure(correlated(within=False), "")).axes) == 1
    assert correlation_figure(rounds(RATES), "") is None
    two = {"eval/correlation/gold/length": Estimate(0.4, 0.3, 0.5, 64, "correlation")}
    few = RunResults(None, (), (ResultRow("report", None, of_task("correlations", two)),))
    assert correlation_figure(few, "") is None


def test_policies_against_policies_have_the_complement_above_the_diagonal_and_a_game_has_its_own_figure() -> None:
    beats = Estimate(0.8, 0.7, 0.9, 64, "probability", Metric(role="beats"))
    row = ResultRow("arena", None, {"eval/beats/sppo/base": beats})
    axes = drawn(policy_matrix(RunResults(None, (), (row,)), "mine")).axes[0]
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array(), float), [[np.nan, 0.8], [0.2, np.nan]])
    assert [t.get_text() for t in axes.texts] == [".80", ".70 to .90", ".20", ".10 to .30"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["sppo", "base"]
    game = replace(row, metrics={**row.metrics, "eval/gap": replace(beats, metric=Metric(role="mixture_gap"))})
    assert policy_matrix(RunResults(None, (), (game,)), "") is None


@pytest.mark.parametrize(("steps", "scale"), [((0, 1, 16), "symlog"), ((0, 10, 20), "linear")])
def test_a_probe_has_levels_and_changes_by_step_on_an_axis_that_fits_them(steps: tuple[int, ...], scale: str) -> None:
    def series(name: str, value: float) -> dict[str, Estimate]:
        return {
            f"eval/{name}/{step}/{kind}": Estimate(value * step, value * step - 1, value * step + 1, 12, "nats")
            for step in steps for kind in ("gold", "rejected")
        }  # fmt: skip

    metrics = of_task("probe", series("probe", -0.5) | series("probe_change", 2.0))
    figure = drawn(probe_figure(RunResults(None, (ResultRow("report", None, metrics),), ()), "sft-probe"))
    left, right = figure.axes
    assert list(left.lines[0].get_xdata()) == list(steps)  # type: ignore[arg-type]
    assert list(right.lines[2].get_ydata()) == [2.0 * step for step in steps]  # type: ignore[arg-type]
    assert left.get_xscale() == scale
    assert (left.get_ylabel(), right.get_ylabel()) == ("log π, nats per token", "Δ log π, nats per answer")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["gold", "rejected"]
    assert probe_figure(rounds(RATES), "") is None
