"""The gap that a student recovers, with its interval."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasks.contract import DataError
from tasks.judging.jackknife import jackknife
from tasks.kinds import Report
from tasks.recover import recovered_gap
from tests.answers import named
from tests.workspace import Workspace


def report(values: list[float], prompts: int = 0, pairs: list[int] | None = None) -> Report:
    ids = [f"p{i}" for i in range(prompts, prompts + len(values))]
    table = pl.DataFrame({"prompt_id": ids, "accuracy": values, **({"pairs": pairs} if pairs else {})})
    row = {"name": "eval/accuracy", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 1, "unit": "share"}
    return Report.of(pl.DataFrame([row])).with_per_prompt(table)


def test_the_gap_is_the_students_share_of_the_ceilings_advantage(tmp_path: Path) -> None:
    weak, student, ceiling = [1.0, 0.0, 0.5, 0.5], [1.0, 0.6, 0.5, 0.5], [1.0, 1.0, 0.5, 0.7]
    found = named(recovered_gap(report(weak), report(student), report(ceiling), Workspace(tmp_path)))
    assert found["eval/weak"]["value"] == pytest.approx(0.5)
    assert found["eval/student"]["value"] == pytest.approx(0.65)
    assert found["eval/ceiling"]["value"] == pytest.approx(0.8)
    gap = found["eval/recovered_gap"]
    assert gap["value"] == pytest.approx(0.5)
    assert gap["ci_low"] < 0.5 < gap["ci_high"]


def test_prompts_with_more_pairs_weigh_more(tmp_path: Path) -> None:
    """Weights 3 and 1: weak 3/4·0 + 1/4·1, student 3/4·1 + 1/4·0, ceiling 1."""
    reports = [report(values, pairs=[3, 1]) for values in ([0.0, 1.0], [1.0, 0.0], [1.0, 1.0])]
    gap = named(recovered_gap(*reports, Workspace(tmp_path)))["eval/recovered_gap"]  # type: ignore[misc]
    assert gap["value"] == pytest.approx((0.75 - 0.25) / (1 - 0.25))


def test_without_a_gap_there_is_no_value_and_a_notice(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    found = named(recovered_gap(report([0.7, 0.7]), report([0.6, 0.6]), report([0.6, 0.6]), work))
    assert found["eval/recovered_gap"]["value"] is None
    assert "the ceiling, 0.600, is not above the weak supervisor, 0.700: there is no gap to recover" in work.notices


def test_other_prompts_and_missing_metrics_are_an_error(tmp_path: Path) -> None:
    one, work = report([0.5, 0.6]), Workspace(tmp_path)
    with pytest.raises(
        DataError, match="`student` has 2 prompts with a value of 'accuracy', of which 1 are among the 2"
    ):
        recovered_gap(one, report([0.5, 0.6], prompts=1), one, work)
    with pytest.raises(DataError, match="`weak` has no values of 'win_rate' by prompt"):
        recovered_gap(one, one, one, work, quantity="win_rate")


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=30)
    found = jackknife(lambda w: float(w @ values / w.sum()), np.ones(30))
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / 30**0.5)
    assert jackknife(lambda _: float("nan"), np.ones(3)).value is None
