"""The farthest accurate KL of given accuracies and distances, and its figure."""

from pathlib import Path

import polars as pl
import pytest

from flows.reporting.figures.accuracy_by_kl import accuracy_by_kl
from flows.reporting.results import Estimate, ResultRow, RunResults, with_metrics
from tasks.accuracy_at_kl import accuracy_at_kl, accuracy_at_kl_metrics
from tasks.contract import DataError
from tasks.kinds import Report
from tests.answers import named, rows
from tests.workspace import Workspace


def _report(name: str, value: float, half: float | None = 0.04, by_prompt: dict[str, float] | None = None) -> Report:
    low, high = (None, None) if half is None else (value - half, value + half)
    row = {"name": name, "value": value, "ci_low": low, "ci_high": high, "n": 64, "unit": "x"}
    made = Report.of(pl.DataFrame([row], schema_overrides={"ci_low": pl.Float64, "ci_high": pl.Float64}))
    if by_prompt is None:
        return made
    return made.with_per_prompt(pl.DataFrame({"prompt_id": [*by_prompt], "accuracy": [*by_prompt.values()]}))


def _measured(
    accuracies: list[float], kl: list[float], folder: Path, bound: float = 0.7, half: float | None = 0.04
) -> Report:
    found = [_report("eval/accuracy", x, half, {"a": x, "b": x}) for x in accuracies]
    return accuracy_at_kl(found, [_report("eval/kl", x) for x in kl], Workspace(folder), least_accuracy=bound)


def test_it_is_the_last_kl_before_the_accuracy_first_falls_below_the_bound(tmp_path: Path) -> None:
    """By lower ends (.76 .68 …) to 0, by upper ends (.84 .76 .73 .64 …) to 5; the return to .9 at 20 does not count."""
    found = named(_measured([0.69, 0.8, 0.72, 0.6, 0.9], [5, 0, 1, 10, 20], tmp_path))
    row = found["eval/farthest_accurate_kl"]
    assert (row["value"], row["ci_low"], row["ci_high"], row["unit"]) == (1, 0, 5, "nats")
    assert [found[f"eval/accuracy_at_kl/{i}"]["value"] for i in range(1, 6)] == [0.8, 0.72, 0.69, 0.6, 0.9]
    assert [found[f"eval/kl_at/{i}"]["value"] for i in range(1, 6)] == [0, 1, 5, 10, 20]
    assert found["eval/accuracy_bound"]["value"] == 0.7


def test_an_oracle_that_is_accurate_everywhere_or_nowhere(tmp_path: Path) -> None:
    everywhere = named(_measured([0.9, 0.8], [0, 3], tmp_path))["eval/farthest_accurate_kl"]
    assert (everywhere["value"], everywhere["ci_low"]) == (3, 3)
    work = Workspace(tmp_path / "w")
    nowhere = accuracy_at_kl([_report("eval/accuracy", 0.55)], [_report("eval/kl", 0.1)], work, least_accuracy=0.7)
    row = named(nowhere)["eval/farthest_accurate_kl"]
    assert (row["value"], row["ci_low"], row["ci_high"]) == (None, 0, 0)
    assert work.notices == ["no policy has pairs on which the accuracy is 0.7: it is 0.550 at 0.10 nats"]


def test_accuracies_without_intervals_give_none(tmp_path: Path) -> None:
    row = named(_measured([0.9, 0.6], [0, 3], tmp_path, half=None))["eval/farthest_accurate_kl"]
    assert (row["value"], row["ci_low"], row["ci_high"]) == (0, None, None)


def test_values_by_prompt_stand_side_by_side(tmp_path: Path) -> None:
    found = [_report("eval/accuracy", 0.5, by_prompt=x) for x in ({"a": 1.0, "b": 0.0}, {"b": 1.0})]
    report = accuracy_at_kl(found, [_report("eval/kl", x) for x in (2, 1)], Workspace(tmp_path))
    assert report.per_prompt is not None
    by_prompt = {row["prompt_id"]: row for row in report.per_prompt.to_pylist()}
    assert by_prompt["b"] == {"prompt_id": "b", "accuracy_at_kl/1": 1.0, "accuracy_at_kl/2": 0.0}
    assert by_prompt["a"]["accuracy_at_kl/1"] is None


def test_reports_without_the_metric_and_unequal_lists_are_refused(tmp_path: Path) -> None:
    good, kl = _report("eval/accuracy", 0.8), _report("eval/kl", 1.0)
    with pytest.raises(DataError, match=r"Report 2 of `distances` has no value of eval/kl; it has \['eval/accuracy'\]"):
        accuracy_at_kl([good, good], [kl, good], Workspace(tmp_path))
    with pytest.raises(DataError, match="`accuracies` has 2 Reports and `distances` 1"):
        accuracy_at_kl([good, good], [kl], Workspace(tmp_path))


def test_the_figure_shows_the_accuracies_the_bound_and_the_farthest_kl(tmp_path: Path) -> None:
    table = rows(_measured([0.8, 0.72, 0.6], [0, 1, 10], tmp_path))
    estimates = {r["name"]: Estimate(r["value"], r["ci_low"], r["ci_high"], r["n"], r["unit"]) for r in table}
    row = ResultRow("farthest", None, with_metrics(estimates, accuracy_at_kl_metrics))
    figure = accuracy_by_kl(RunResults(None, (), (row,)), "run")
    assert figure is not None
    axes = figure.axes[0]
    assert [*axes.lines[0].get_ydata()] == [0.8, 0.72, 0.6]
    assert [*axes.lines[0].get_xdata()] == pytest.approx([0, 1, 10**0.5])
    assert any("accurate to KL 1" in text.get_text() for text in axes.texts)
    assert accuracy_by_kl(RunResults(None, (), ()), "run") is None
