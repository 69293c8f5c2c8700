"""Uncertainty of an oracle: written down by `compare`, explored by a rule, asked about, and reported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tasks.contract import Chosen, DataError, SpecError
from tasks.judge import compare, judge_pairs
from tasks.kinds import Completions, Ensemble, Preferences, WinProbs
from tasks.measure import mean_uncertainty
from tasks.pair_rules.most_uncertain import most_uncertain
from tasks.scorers import ensemble
from tasks.select import concat, pairs
from tests.answers import Judge, completions, named, rows, saved, scorer
from tests.workspace import Killed, Mortal, Workspace

RULE = Chosen("pair_rules", "most_uncertain", {})
TABLES: list[Mapping[str, float | None]] = [
    {"a": 0.0, "b": 1.0, "c": 2.0, "d": 0.5}, {"a": 0.0, "b": 1.0, "c": -3.0, "d": 0.0},
]  # fmt: skip


def _committee(folder: Path, tables: list[Mapping[str, float | None]] = TABLES) -> Ensemble:
    return ensemble([scorer(t) for t in tables], Workspace(folder), how="mean")


def _deviation(x: float, y: float) -> float:
    """The unbiased standard deviation of two probabilities of these logits."""
    return float(abs(1 / (1 + np.exp(-x)) - 1 / (1 + np.exp(-y))) / np.sqrt(2))


def _compared(folder: Path, answers: Completions, **options: Any) -> WinProbs:
    return compare(answers, _committee(folder / "committee"), Workspace(folder / "compare"), **options)


def test_an_ensemble_fills_the_column_and_other_oracles_leave_it_null(tmp_path: Path) -> None:
    answers = completions({"x": ["a", "b", "c"]})
    found = {(r["a_id"][-1], r["b_id"][-1]): r["uncertainty"] for r in rows(_compared(tmp_path, answers))}
    assert found == {
        ("0", "1"): 0.0, ("0", "2"): pytest.approx(_deviation(-2, 3)), ("1", "2"): pytest.approx(_deviation(-1, 4)),
    }  # fmt: skip
    other = compare(answers, scorer(TABLES[0]), Workspace(tmp_path / "plain"))
    assert [r["uncertainty"] for r in rows(other)] == [None] * 3


def test_equal_texts_are_certain_and_an_unscored_answer_has_no_uncertainty(tmp_path: Path) -> None:
    unscored = [{**TABLES[0], "b": None}, TABLES[1]]
    made = compare(
        completions({"x": ["a", "a", "b"]}), _committee(tmp_path / "committee", unscored), Workspace(tmp_path / "c")
    )
    assert [r["uncertainty"] for r in rows(made)] == [0.0, None, None]


def test_a_step_resumed_after_a_kill_has_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    answers = completions({f"p{i}": ["a", "b", "c", "d"] for i in range(40)})
    whole = _compared(tmp_path, answers)
    work = Mortal(tmp_path / "killed", done=1)
    with pytest.raises(Killed):
        compare(answers, _committee(tmp_path / "again"), work)
    members = [scorer(t) for t in TABLES]
    committee = ensemble([*members], Workspace(tmp_path / "noted"), how="mean")
    resumed = compare(answers, committee, Workspace(tmp_path / "killed"))
    assert (resumed.path / "table.arrow").read_bytes() == (whole.path / "table.arrow").read_bytes()
    assert members[0].questions == []


def test_the_rule_pairs_the_first_answer_with_the_one_that_it_is_most_uncertain_against(tmp_path: Path) -> None:
    own = completions({"x": ["b", "a"], "y": ["a", "a"]})
    explored = completions({"x": ["c", "d"], "y": ["b", "a"]}, stream=1)
    answers = concat([own, explored], Workspace(tmp_path))
    answers = saved(answers, tmp_path / "answers")
    kept = pairs(answers, _compared(tmp_path, answers), Workspace(tmp_path / "pairs"), rule=RULE)
    [pair] = rows(kept)  # the answers to y are all certain: a and b differ equally by both members
    assert {pair["chosen"], pair["rejected"]} == {"b", "c"}
    mean = (1 - 2 + 1 + 3) / 2  # of b above c
    assert (pair["chosen"], pair["p"]) == ("b", pytest.approx(1 / (1 + np.exp(-mean))))


def test_the_rule_takes_the_earlier_of_equally_uncertain_partners_and_needs_an_uncertainty() -> None:
    frame = pl.DataFrame({
        "prompt": [0, 0, 0], "a": [0, 0, 1], "b": [1, 2, 2], "p": [0.4, 0.9, 0.5], "uncertainty": [0.2, 0.2, 0.9],
    })  # fmt: skip
    assert most_uncertain(frame).to_dicts() == [{"a": 1, "b": 0, "p": 0.6}]
    unknown = frame.with_columns(uncertainty=pl.Series([0.1, None, 0.2]))
    with pytest.raises(DataError, match="1 of 3 pairs have no uncertainty: the rule `most_uncertain` needs"):
        most_uncertain(unknown)


def _pairs(sides: list[tuple[str, str]]) -> Preferences:
    return Preferences.of(pa.Table.from_pylist([
        {"prompt_id": f"p{i}", "prompt": [{"role": "user", "content": f"ask {i}"}], "chosen_id": f"w{i}",
         "rejected_id": f"l{i}", "chosen": chosen, "rejected": rejected, "chosen_tokens": [1],
         "rejected_tokens": [2, 2], "chosen_ended": True, "rejected_ended": False, "p": 0.5, "source": "rule"}
        for i, (chosen, rejected) in enumerate(sides)
    ], Preferences.SCHEMA))  # fmt: skip


def test_pairs_are_turned_where_the_other_side_wins_with_everything_that_belongs_to_a_side(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    judged = judge_pairs(
        _pairs([("b", "a"), ("a", "b"), ("a", "a"), ("a", "n")]), scorer({"a": 0.0, "b": 1.0, "n": None}), work,
        labels="likelier",
    )  # fmt: skip
    kept, turned = rows(judged)
    p = 1 / (1 + np.exp(-1))
    for row, ids, tokens, ended in (
        (kept, ("w0", "l0"), ([1], [2, 2]), (True, False)), (turned, ("l1", "w1"), ([2, 2], [1]), (False, True)),
    ):  # fmt: skip
        assert (row["chosen"], row["rejected"]) == ("b", "a")
        assert (row["chosen_id"], row["rejected_id"]) == ids
        assert (row["chosen_tokens"], row["rejected_tokens"]) == tokens
        assert (row["chosen_ended"], row["rejected_ended"]) == ended
        assert (row["p"], row["margin"], row["source"]) == (pytest.approx(p), pytest.approx(2 * p - 1), "judged")
    assert {n: work.totals[n] for n in ("pairs_judged", "pairs_unanswered", "pairs_tied", "pairs_turned")} == {
        "pairs_judged": 4, "pairs_unanswered": 1, "pairs_tied": 1, "pairs_turned": 1,
    }  # fmt: skip


def test_drawn_labels_follow_p_and_do_not_depend_on_which_side_was_chosen_before(tmp_path: Path) -> None:
    table, reverse = _pairs([("b", "a")] * 400), _pairs([("a", "b")] * 400)
    swapped = reverse.table.to_pylist()
    for row in swapped:
        row["chosen_id"], row["rejected_id"] = row["rejected_id"], row["chosen_id"]
    reverse = Preferences.of(pa.Table.from_pylist(swapped, Preferences.SCHEMA))
    oracle = scorer({"a": 0.0, "b": 1.0})
    one, other = (
        [r["chosen_id"] for r in rows(judge_pairs(t, oracle, Workspace(tmp_path / str(i))))]
        for i, t in enumerate((table, reverse))
    )
    assert one == other
    share = sum(id.startswith("w") for id in one) / 400
    assert share == pytest.approx(1 / (1 + np.exp(-1)), abs=0.07)  # three standard errors


def test_an_oracle_that_depends_on_the_order_is_asked_in_both(tmp_path: Path) -> None:
    judge = Judge({("a", "b"): 0.9, ("b", "a"): 0.5}, antisymmetric=False)
    [row] = rows(judge_pairs(_pairs([("a", "b")]), judge, Workspace(tmp_path), labels="likelier"))
    assert row["p"] == pytest.approx((0.9 + 0.5) / 2)
    assert len(judge.questions) == 2


def test_no_answered_pair_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 1 pairs is left"):
        judge_pairs(_pairs([("a", "a")]), scorer({"a": 0.0}), Workspace(tmp_path), labels="likelier")


def test_the_report_is_the_mean_over_prompts_of_all_pairs_and_of_the_selected_ones(tmp_path: Path) -> None:
    answers = completions({"x": ["a", "c", "b"], "y": ["a", "b", "d"]})
    duels = _compared(tmp_path, answers)
    kept = pairs(answers, duels, Workspace(tmp_path / "pairs"), rule=RULE)
    report = named(mean_uncertainty(duels, Workspace(tmp_path / "report"), kept))
    of_x = [_deviation(-2, 3), 0.0, _deviation(1, -4)]
    of_y = [0.0, _deviation(-0.5, 0), _deviation(0.5, 1.0)]
    assert report["eval/uncertainty"]["value"] == pytest.approx((np.mean(of_x) + np.mean(of_y)) / 2)
    assert report["eval/uncertainty_selected"]["value"] == pytest.approx((of_x[0] + of_y[1]) / 2)
    assert report["eval/uncertainty"]["n"] == 2


def test_a_report_on_an_oracle_without_uncertainty_or_on_other_pairs_is_refused(tmp_path: Path) -> None:
    answers = completions({"x": ["a", "c"]})
    certain = compare(answers, scorer(TABLES[0]), Workspace(tmp_path / "plain"))
    with pytest.raises(DataError, match="none of 1 comparisons has an uncertainty"):
        mean_uncertainty(certain, Workspace(tmp_path / "report"))
    with pytest.raises(DataError, match="1 of 1 pairs are not among the comparisons"):
        mean_uncertainty(_compared(tmp_path, answers), Workspace(tmp_path / "other"), _pairs([("a", "c")]))


def test_the_live_oracle_of_a_rule_knows_no_uncertainty() -> None:
    with pytest.raises(SpecError, match="does not know how uncertain it is; an `ensemble` does"):
        scorer({"a": 0.0}).uncertainty([[]], ["a"], ["a"], [None])
