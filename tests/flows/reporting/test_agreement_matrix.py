"""The figure of agreement: both matrices, with a number in every cell of two annotators."""

from itertools import combinations

import matplotlib
import numpy as np

from flows.reporting.figures.agreement_matrix import agreement_figure
from flows.reporting.results import Estimate, ResultRow, RunResults
from tests.flows.evaluated import of_task

matplotlib.use("Agg")


def _results(*names: str) -> RunResults:
    values = {
        "eval/alpha": Estimate(0.5, 0.4, 0.6, 8, "kappa"),
        "eval/fleiss_kappa": Estimate(float("nan"), None, None, 0, "kappa"),
    }
    for n, (a, b) in enumerate(combinations(names, 2)):
        values[f"eval/accuracy/{a}/{b}"] = Estimate(0.9 - n / 10, 0.1, 1.0, 8, "probability")
        values[f"eval/kappa/{a}/{b}"] = Estimate(0.7 - n / 2, None, None, 8, "kappa")
    return RunResults(None, (ResultRow("report", None, of_task("agreement", values)),), ())


def test_both_matrices_are_symmetric_and_have_a_number_in_each_cell_but_the_diagonal() -> None:
    figure = agreement_figure(_results("gold", "kim", "a judge with a very long name"), "mine")
    assert figure is not None
    left, right = figure.axes
    for axes, values in ((left, (0.9, 0.8, 0.7)), (right, (0.7, 0.2, -0.3))):
        drawn = np.asarray(axes.images[0].get_array())
        x, y, z = values
        np.testing.assert_allclose(drawn, [[np.nan, x, y], [x, np.nan, z], [y, z, np.nan]])
        assert len(axes.texts) == 6
    assert [text.get_text() for text in right.texts] == [".70", ".20", ".70", "−.30", ".20", "−.30"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["gold", "kim", "a judge with a ve…"]
    assert "Krippendorff's alpha 0.500 (0.400–0.600); 8 prompts" in [text.get_text() for text in figure.texts]


def test_a_run_without_a_report_on_agreement_has_no_such_figure() -> None:
    assert agreement_figure(RunResults(None, (ResultRow("report", None, {}),), ()), "mine") is None
