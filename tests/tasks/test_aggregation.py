"""From both orders to one probability: the matrix of PairRM's log-odds worked through by hand, three ways."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from tasks.contract import DataError, SpecError
from tasks.judge import compare
from tasks.kinds import WinProbs
from tasks.select import win_rates
from tests.answers import Judge, completions, rows, win_probs
from tests.workspace import Workspace

LOGITS = np.array([[0, 1, 2], [-0.4, 0, 0.6], [-1.2, -0.8, 0]])
"""L_ij, the log-odds that i is better with i shown first."""
SCORES = [(1.4 + 3.2) / 3, 0.0, -(3.2 + 1.4) / 3]
"""s_i = mean_j (L_ij − L_ji): 1.5333, (−1.4 + 1.4) / 3, −1.5333."""
TABLE = {"x": ["a", "b", "c"]}


def judged(folder: Path, logits: Any = LOGITS) -> WinProbs:
    """Both orders of every pair, as `compare` writes them."""
    texts = TABLE["x"]
    answers = {
        (texts[i], texts[j]): float(expit(logits[i][j])) for i in range(3) for j in range(3) if i != j
    }  # fmt: skip
    return compare(completions(TABLE), Judge(answers, antisymmetric=False), Workspace(folder / "compared"))


def rates(questions: WinProbs, folder: Path, aggregation: str, **options: Any) -> list[float]:
    made = win_rates(questions, completions(TABLE), Workspace(folder), aggregation=aggregation, **options)  # type: ignore[arg-type]
    return [row["win_rate"] for row in rows(made)]


def sigmoid(x: float) -> float:
    return float(expit(x))


def test_scores_give_the_win_rates_of_sppos_code(tmp_path: Path) -> None:
    one, two = sigmoid(SCORES[0]), sigmoid(2 * SCORES[0])
    assert SCORES[0] == pytest.approx(1.5333, abs=5e-5)
    by_hand = [(0.5 + one + two) / 3, 0.5, (0.5 + (1 - one) + (1 - two)) / 3]
    assert rates(judged(tmp_path), tmp_path, "scores") == pytest.approx(by_hand, abs=1e-12)
    assert by_hand == pytest.approx([0.75933, 0.5, 0.24067], abs=5e-6)


def test_logits_are_averaged_over_both_orders_as_pair_rm_compares(tmp_path: Path) -> None:
    mean = {(0, 1): 0.7, (0, 2): 1.6, (1, 2): 0.7}
    by_hand = [
        (0.5 + sigmoid(mean[0, 1]) + sigmoid(mean[0, 2])) / 3, 0.5, (1.5 - sigmoid(1.6) - sigmoid(0.7) + 1) / 3,
    ]  # fmt: skip
    assert rates(judged(tmp_path), tmp_path, "logits") == pytest.approx(by_hand, abs=1e-12)
    assert by_hand == pytest.approx([0.66674, 0.5, 0.33326], abs=5e-6)


def test_probabilities_are_averaged_by_default(tmp_path: Path) -> None:
    p01, p02 = (sigmoid(1) + 1 - sigmoid(-0.4)) / 2, (sigmoid(2) + 1 - sigmoid(-1.2)) / 2
    found = rates(judged(tmp_path), tmp_path / "a", "probabilities")
    assert found[0] == pytest.approx((0.5 + p01 + p02) / 3, abs=1e-12)
    assert found == [
        r["win_rate"] for r in rows(win_rates(judged(tmp_path), completions(TABLE), Workspace(tmp_path / "b")))
    ]


def test_an_oracle_without_order_has_the_scores_that_both_orders_would_give(tmp_path: Path) -> None:
    """L_ji = −L_ij: one row for a pair says both."""
    half = (LOGITS - LOGITS.T) / 2
    once = win_probs([("x", f"x/0/{i}", f"x/0/{j}", sigmoid(half[i, j])) for i, j in ((0, 1), (0, 2), (1, 2))])
    for aggregation in ("logits", "scores"):
        both = rates(judged(tmp_path), tmp_path / f"both_{aggregation}", aggregation)
        assert rates(once, tmp_path / aggregation, aggregation) == pytest.approx(both, abs=1e-12)


def test_the_self_comparison_is_an_option_of_every_aggregation(tmp_path: Path) -> None:
    found = rates(judged(tmp_path), tmp_path, "scores", count_self=False)
    assert found[0] == pytest.approx((sigmoid(SCORES[0]) + sigmoid(2 * SCORES[0])) / 2)


def test_log_odds_of_a_certain_answer_are_refused(tmp_path: Path) -> None:
    certain = win_probs([("x", "x/0/0", "x/0/1", 1.0), ("x", "x/0/0", "x/0/2", 0.5), ("x", "x/0/1", "x/0/2", 0.0)])
    for aggregation in ("logits", "scores"):
        with pytest.raises(DataError, match="2 of 3 answers are a probability of 0 or 1, whose log-odds are infinite"):
            rates(certain, tmp_path / aggregation, aggregation)
    assert rates(certain, tmp_path / "p", "probabilities")[0] == pytest.approx((0.5 + 1.0 + 0.5) / 3)


def test_one_order_alone_is_refused(tmp_path: Path) -> None:
    one = win_probs(
        [("x", "x/0/0", "x/0/1", 0.7), ("x", "x/0/0", "x/0/2", 0.6), ("x", "x/0/1", "x/0/2", 0.4)], first="a"
    )
    with pytest.raises(DataError, match="3 of 3 pairs were queried in one order only"):
        rates(one, tmp_path, "logits")


def _without(questions: WinProbs, a: str, b: str, first: str) -> WinProbs:
    table = questions.table.to_pylist()
    for row in table:
        if (row["a_id"], row["b_id"], row["first"]) == (a, b, first):
            row["p"] = None
    import pyarrow as pa

    return WinProbs.of(pa.Table.from_pylist(table, WinProbs.SCHEMA))


def test_a_pair_without_an_answer_in_one_order_counts_in_no_log_odds(tmp_path: Path) -> None:
    """By logits the pair is left out; by scores its prompt is, whose scores would have unequal opponents."""
    missing = _without(judged(tmp_path), "x/0/0", "x/0/1", "b")
    found = rates(missing, tmp_path / "l", "logits", count_self=False)
    assert found == pytest.approx([sigmoid(1.6), sigmoid(0.7), (2 - sigmoid(1.6) - sigmoid(0.7)) / 2])
    with pytest.raises(DataError, match="none of 1 prompts is left: 1 with an answer that has no answered opponent"):
        rates(missing, tmp_path / "s", "scores")
    one_order = rates(missing, tmp_path / "p", "probabilities", count_self=False)
    assert one_order[0] == pytest.approx((sigmoid(1) + (sigmoid(2) + 1 - sigmoid(-1.2)) / 2) / 2)


def test_scores_need_one_table(tmp_path: Path) -> None:
    against = win_probs([("x", "x/0/0", "x/1/0", 0.5)])
    with pytest.raises(SpecError, match="`aggregation: scores` needs every two answers of one table compared"):
        win_rates(
            against, completions({"x": ["a"]}), Workspace(tmp_path), completions({"x": ["b"]}, stream=1),
            count_self=False, aggregation="scores",
        )  # fmt: skip
