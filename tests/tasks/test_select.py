import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from tasks.contract import Chosen, DataError, SpecError
from tasks.judge import compare, score
from tasks.kinds import Completions, Logps, WinProbs, WinRates
from tasks.select import concat, pairs, take_batch, win_rates
from tests.answers import Judge, completions, rows, saved, scorer, win_probs
from tests.workspace import Workspace

BEST_AND_WORST = Chosen("pair_rules", "best_and_worst", {})
LOGITS = np.array([[0, 1, 2], [-0.4, 0, 0.6], [-1.2, -0.8, 0]])
"""PairRM's matrix L of algorithms.md 9.5."""


def three(p: np.ndarray[Any, Any]) -> WinProbs:
    return win_probs([("x", f"x/0/{i}", f"x/0/{j}", float(p[i, j])) for i, j in ((0, 1), (0, 2), (1, 2))])


def rated(found: WinRates) -> list[float]:
    return [r["win_rate"] for r in rows(found)]


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (expit(np.subtract.outer(*[(LOGITS - LOGITS.T).mean(1)] * 2)), [0.75933, 0.5, 0.24067]),
        (expit((LOGITS - LOGITS.T) / 2), [0.66674, 0.5, 0.33326]),
    ],
    ids=["SPPO's repository", "debiased by pairs"],
)
def test_three_answers_have_the_win_rates_of_the_published_matrix(
    tmp_path: Path, p: np.ndarray[Any, Any], expected: list[float]
) -> None:
    found = win_rates(three(p), completions({"x": ["a", "b", "c"]}), Workspace(tmp_path))
    assert rated(found) == pytest.approx(expected, abs=5e-6)
    assert [r["opponents"] for r in rows(found)] == [3, 3, 3]
    assert rows(found)[2]["prompt_win_rates"] == rated(found)


def test_without_the_self_comparison_a_win_rate_is_the_mean_over_the_others(tmp_path: Path) -> None:
    judged = win_probs([("x", "x/0/0", "x/0/1", 0.9), ("x", "x/0/0", "x/0/2", 0.6), ("x", "x/0/1", "x/0/2", 0.3)])
    found = win_rates(judged, completions({"x": ["a", "b", "c"]}), Workspace(tmp_path), count_self=False)
    assert rated(found) == pytest.approx([0.75, 0.2, 0.55])
    assert [r["opponents"] for r in rows(found)] == [2, 2, 2]


def test_both_orders_of_a_question_are_averaged(tmp_path: Path) -> None:
    # The judge likes what it sees first: P(a) is 0.8 with a first and 0.6 with b first.
    oracle, table = Judge({("a", "b"): 0.8, ("b", "a"): 0.4}, antisymmetric=False), completions({"x": ["a", "b"]})
    judged = compare(table, oracle, Workspace(tmp_path / "1"))
    found = win_rates(judged, table, Workspace(tmp_path / "2"), count_self=False)
    assert rated(found) == pytest.approx([0.7, 0.3])
    assert [r["opponents"] for r in rows(found)] == [1, 1]


def test_a_question_may_name_its_answers_the_other_way_round(tmp_path: Path) -> None:
    judged = win_probs([("x", "x/0/1", "x/0/0", 0.9)])
    found = win_rates(judged, completions({"x": ["a", "b"]}), Workspace(tmp_path), count_self=False)
    assert rated(found) == pytest.approx([0.1, 0.9])


def test_best_and_worst_are_kept_with_the_win_rates_of_all(tmp_path: Path) -> None:
    judged = win_probs([("x", "x/0/0", "x/0/1", 0.9), ("x", "x/0/0", "x/0/2", 0.6), ("x", "x/0/1", "x/0/2", 0.3)])
    table = completions({"x": ["a", "b", "c"]})
    found = rows(win_rates(judged, table, Workspace(tmp_path), keep="best_and_worst"))
    assert [r["completion_id"] for r in found] == ["x/0/0", "x/0/1"]
    assert [r["win_rate"] for r in found] == pytest.approx([2 / 3, 0.3])
    for r in found:
        assert r["prompt_win_rates"] == pytest.approx([2 / 3, 0.3, 1.6 / 3])


def test_equal_win_rates_are_parted_by_k(tmp_path: Path) -> None:
    # Texts a a b b: both a win 0.7 against each b, so k = 0 is best and k = 3 worst.
    oracle = Judge({("a", "b"): 0.7}, antisymmetric=True)
    table = completions({"x": ["a", "a", "b", "b"]})
    judged = compare(table, oracle, Workspace(tmp_path / "1"))
    found = rows(win_rates(judged, table, Workspace(tmp_path / "2"), keep="best_and_worst"))
    assert [r["k"] for r in found] == [0, 3]
    assert [r["win_rate"] for r in found] == pytest.approx([(0.5 + 0.5 + 1.4) / 4, (0.5 + 0.5 + 0.6) / 4])


def test_a_prompt_whose_answers_win_equally_often_is_left_out_and_counted(tmp_path: Path) -> None:
    oracle, work = Judge({("a", "b"): 0.7}, antisymmetric=True), Workspace(tmp_path / "2")
    table = completions({"x": ["a", "a", "a"], "y": ["a", "b"]})
    judged = compare(table, oracle, Workspace(tmp_path / "1"))
    found = rows(win_rates(judged, table, work, keep="best_and_worst", count_self=False))
    assert [r["prompt_id"] for r in found] == ["y", "y"]
    assert work.totals == {"prompts": 2, "prompts_unanswered": 0, "prompts_without_extra": 0, "prompts_tied": 1}
    assert "1 of 2 prompts left out" in work.notices[0]
    assert len(win_rates(judged, table, Workspace(tmp_path / "3"), count_self=False)) == 5


def test_opponents_count_only_where_there_is_an_answer(tmp_path: Path) -> None:
    judged = win_probs([("x", "x/0/0", "x/0/1", 0.9), ("x", "x/0/0", "x/0/2", None), ("x", "x/0/1", "x/0/2", 0.3)])
    found = win_rates(judged, completions({"x": ["a", "b", "c"]}), Workspace(tmp_path))
    assert rated(found) == pytest.approx([(0.5 + 0.9) / 2, (0.5 + 0.1 + 0.3) / 3, (0.5 + 0.7) / 2])
    assert [r["opponents"] for r in rows(found)] == [2, 3, 2]


def test_an_answer_without_any_opponent_takes_its_prompt_out(tmp_path: Path) -> None:
    judged = win_probs([
        ("x", "x/0/0", "x/0/1", 0.9), ("x", "x/0/0", "x/0/2", None), ("x", "x/0/1", "x/0/2", None),
        ("y", "y/0/0", "y/0/1", 0.2),
    ])  # fmt: skip
    work, table = Workspace(tmp_path), completions({"x": ["a", "b", "c"], "y": ["a", "b"], "z": ["alone"]})
    found = win_rates(judged, table, work, count_self=False)
    assert [r["prompt_id"] for r in rows(found)] == ["y", "y"]
    assert work.totals == {"prompts": 3, "prompts_unanswered": 2, "prompts_without_extra": 0, "prompts_tied": 0}


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    judged = win_probs([("x", "x/0/0", "x/0/1", None)])
    table = completions({"x": ["a", "b"]})
    with pytest.raises(DataError, match="none of 1 prompts is left: 1 with an answer that has no answered opponent"):
        win_rates(judged, table, Workspace(tmp_path))
    with pytest.raises(DataError, match="without a pair by the rule"):
        pairs(table, judged, Workspace(tmp_path), rule=BEST_AND_WORST)


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (("x", "x/0/0", "x/9/9", 0.5), "1 of 2 ids of win_probs.b_id"),
        (("q", "x/0/0", "x/0/1", 0.5), "1 of 2 prompts of win_probs"),
        (("y", "x/0/0", "x/0/1", 0.5), "belong to another prompt"),
        (("x", "x/0/0", "y/0/0", 0.5), "belong to another prompt"),
        (("x", "x/0/0", "x/0/0", 0.5), "compare a draw with itself"),
    ],
)
def test_ids_that_do_not_match_are_an_error(tmp_path: Path, question: tuple[str, str, str, float], told: str) -> None:
    judged = win_probs([("x", "x/0/0", "x/0/1", 0.5), question])
    with pytest.raises(DataError, match=told):
        win_rates(judged, completions({"x": ["a", "b"], "y": ["a"]}), Workspace(tmp_path), count_self=False)


def test_a_draw_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    table = completions({"x": ["a", "b"]}).table
    twice = Completions.of(pa.concat_tables([table, table]))
    with pytest.raises(DataError, match="the same draws occur twice"):
        win_rates(win_probs([("x", "x/0/0", "x/0/1", 0.5)]), twice, Workspace(tmp_path))


def against(p: np.ndarray[Any, Any], stream: int = 1) -> WinProbs:
    """P of the K answers (rows) to prompt x against its B extra samples (columns)."""
    k, b = p.shape
    return win_probs([("x", f"x/0/{i}", f"x/{stream}/{j}", float(p[i, j])) for i in range(k) for j in range(b)])


def test_with_extra_samples_both_sides_are_rated_against_the_other(tmp_path: Path) -> None:
    """P of 2 answers against 3 extra samples: means of rows, and one less the means of columns."""
    p = np.array([[0.9, 0.6, 0.3], [0.5, 0.2, 0.2]])
    table, extra = completions({"x": ["a", "b"]}), completions({"x": ["c", "d", "e"]}, stream=1)
    found = win_rates(against(p), table, Workspace(tmp_path), extra, count_self=False)
    assert rated(found) == pytest.approx([0.6, 0.3])
    assert [r["opponents"] for r in rows(found)] == [3, 3]
    for row in rows(found):
        assert row["prompt_win_rates"] == pytest.approx([0.3, 0.6, 0.75])


def test_extra_samples_cost_k_times_b_questions_and_estimate_log_z_without_bias_by_the_self_comparison(
    tmp_path: Path,
) -> None:
    """A level preference, P = 1/2: the K answers and the B samples all have 1/2, so log Z is eta/2 for any K and B."""
    table, extra = completions({"x": ["a", "b"]}), completions({"x": ["c", "d", "e"]}, stream=1)
    oracle = Judge({(a, b): 0.5 for a in "ab" for b in "cde"}, antisymmetric=True)
    work = Workspace(tmp_path / "1")
    judged = compare(table, oracle, work, extra)
    assert work.totals["queries"] == 2 * 3
    for row in rows(win_rates(judged, table, Workspace(tmp_path / "2"), extra, count_self=False)):
        assert (row["win_rate"], row["prompt_win_rates"]) == (0.5, [0.5, 0.5, 0.5])


def test_an_unanswered_extra_sample_does_not_count_and_a_prompt_without_any_is_left_out(tmp_path: Path) -> None:
    judged = win_probs([
        ("x", "x/0/0", "x/1/0", 0.8), ("x", "x/0/0", "x/1/1", None), ("y", "y/0/0", "y/1/0", None),
    ])  # fmt: skip
    table, extra = completions({"x": ["a"], "y": ["a"]}), completions({"x": ["c", "d"], "y": ["c"]}, stream=1)
    work = Workspace(tmp_path)
    [row] = rows(win_rates(judged, table, work, extra, count_self=False))
    assert row["win_rate"] == pytest.approx(0.8)
    assert row["prompt_win_rates"] == pytest.approx([0.2])
    assert work.totals == {"prompts": 2, "prompts_unanswered": 1, "prompts_without_extra": 0, "prompts_tied": 0}


def test_questions_of_one_table_are_refused_beside_extra_samples(tmp_path: Path) -> None:
    table, extra = completions({"x": ["a", "b"]}), completions({"x": ["c"]}, stream=1)
    judged = win_probs([("x", "x/0/0", "x/1/0", 0.5), ("x", "x/0/0", "x/0/1", 0.5)])
    with pytest.raises(DataError, match="1 of 2 answered pairs of win_probs are of one table"):
        win_rates(judged, table, Workspace(tmp_path), extra, count_self=False)
    with pytest.raises(SpecError, match="no answer is its own opponent"):
        win_rates(judged, table, Workspace(tmp_path), extra)
    with pytest.raises(DataError, match="1 of 2 prompts have no sample in `extra`"):
        win_rates(judged, completions({"x": ["a"], "y": ["a"]}), Workspace(tmp_path), extra, count_self=False)
    with pytest.raises(DataError, match="the same draws occur twice"):
        win_rates(against(np.full((2, 2), 0.5), 0), table, Workspace(tmp_path), table, count_self=False)


@pytest.mark.parametrize("p", [1.2, -0.1, float("nan"), float("inf")])
def test_a_p_that_is_no_probability_is_an_error(p: float, tmp_path: Path) -> None:
    judged, table = win_probs([("x", "x/0/0", "x/0/1", p)]), completions({"x": ["a", "b"]})
    text = r"1 of 1 values of win_probs\.p are not probabilities, the first is"
    with pytest.raises(DataError, match=text):
        win_rates(judged, table, Workspace(tmp_path))
    with pytest.raises(DataError, match=text):
        pairs(table, judged, Workspace(tmp_path), rule=BEST_AND_WORST)


def test_different_k_is_refused_where_the_self_comparison_counts(tmp_path: Path) -> None:
    judged = win_probs([("x", "x/0/0", "x/0/1", 0.5), ("y", "y/0/0", "y/0/1", 0.5)])
    table = completions({"x": ["a", "b"], "y": ["a", "b", "c"]})
    with pytest.raises(DataError, match="prompts have 2 to 3 answers"):
        win_rates(judged, table, Workspace(tmp_path))


def many(n: int = 60) -> tuple[Completions, WinProbs]:
    rng = np.random.default_rng(1)
    texts = {f"p{i}": [f"{i} {j}" for j in range(2 + i % 4)] for i in range(n)}
    judged = [
        (p, f"{p}/0/{i}", f"{p}/0/{j}", None if rng.random() < 0.05 else rng.random())
        for p, answers in texts.items()
        for i in range(len(answers))
        for j in range(i + 1, len(answers))
    ]
    return completions(texts, metadata={"template": "abc"}), win_probs(judged)


def digest(table: Any) -> str:
    return hashlib.sha256((table.path / "table.arrow").read_bytes()).hexdigest()


@pytest.mark.parametrize("rule", ["best_and_worst", "all_pairs", "sampled"])
def test_blocks_and_the_order_of_questions_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    table, judged = many()
    order = np.random.default_rng(2).permutation(len(judged))
    shuffled = saved(WinProbs.of(judged.table.take(pa.array(order))), tmp_path / "shuffled")
    chosen = Chosen("pair_rules", rule, {})

    def both(questions: WinProbs, name: str) -> tuple[str, str]:
        targets = win_rates(questions, table, Workspace(tmp_path / name / "1"), keep="best_and_worst", count_self=False)
        return digest(targets), digest(pairs(table, questions, Workspace(tmp_path / name / "2"), rule=chosen))

    whole = both(judged, "whole")
    assert both(shuffled, "shuffled again") == whole
    monkeypatch.setattr("tasks.judging.grouping.Grouped.blocks.__defaults__", (9,))
    assert both(judged, "parts") == whole


def test_pairs_carry_the_texts_ids_and_tokens_of_their_answers(tmp_path: Path) -> None:
    table, judged = many()
    found = pairs(table, judged, Workspace(tmp_path), rule=BEST_AND_WORST)
    answers = {r["completion_id"]: r for r in rows(table)}
    asked = {(r["a_id"], r["b_id"]): r["p"] for r in rows(judged)}
    assert found.metadata == {"template": "abc"}
    assert len(found) > 40
    for r in rows(found):
        for side in ("chosen", "rejected"):
            answer = answers[r[f"{side}_id"]]
            assert answer["completion"] == r[side]
            assert answer["completion_tokens"] == r[f"{side}_tokens"]
            assert answer["prompt_id"] == r["prompt_id"]
            assert answer["prompt"] == r["prompt"]
            assert answer["prompt_tokens"] == r["prompt_tokens"]
        p = asked.get((r["chosen_id"], r["rejected_id"]))
        p = 1 - asked[r["rejected_id"], r["chosen_id"]] if p is None else p  # type: ignore[operator]
        assert r["p"] == pytest.approx(p)
        assert r["margin"] == pytest.approx(2 * p - 1)
        assert r["source"] == "best_and_worst"


def test_a_prompt_in_which_the_rule_keeps_nothing_is_counted(tmp_path: Path) -> None:
    judged = win_probs([("x", "x/0/0", "x/0/1", 0.5), ("y", "y/0/0", "y/0/1", 0.4)])
    work = Workspace(tmp_path)
    found = pairs(completions({"x": ["a", "b"], "y": ["a", "b"]}), judged, work, rule=BEST_AND_WORST)
    assert [(r["chosen_id"], r["rejected_id"]) for r in rows(found)] == [("y/0/1", "y/0/0")]
    assert work.totals == {"prompts": 2, "prompts_without_pair": 1, "pairs": 1}


def test_pieces_are_consecutive_and_share_nothing(tmp_path: Path) -> None:
    table = completions({f"p{i}": ["a"] for i in range(25)}, metadata={"template": "abc"})
    work = Workspace(tmp_path)
    pieces = [take_batch(table, work, index=i, size=10) for i in (1, 2, 3)]
    assert [len(p) for p in pieces] == [10, 10, 5]
    assert [r for p in pieces for r in rows(p)] == rows(table)
    assert pieces[0].metadata == {"template": "abc"}
    assert work.notices == ["the last piece of 25 rows has 5 instead of 10"]


def test_a_table_that_is_used_up_says_how_many_rows_and_pieces_it_has(tmp_path: Path) -> None:
    table = completions({f"p{i}": ["a"] for i in range(25)})
    with pytest.raises(DataError, match="25 rows make 3 pieces of 10, so there is no piece 4"):
        take_batch(table, Workspace(tmp_path), index=4, size=10)


def test_a_wrapped_piece_goes_on_from_the_first_row_and_says_so(tmp_path: Path) -> None:
    table, work = completions({f"p{i}": ["a"] for i in range(25)}), Workspace(tmp_path)
    numbers = [
        [int(r["prompt_id"][1:]) for r in rows(take_batch(table, work, index=i, size=10, wrap=True))] for i in (2, 3, 4)
    ]
    assert numbers == [[*range(10, 20)], [*range(20, 25), *range(5)], [*range(5, 15)]]
    assert len(work.notices) == 2
    assert "piece 3 wraps around: the 25 rows make 3 pieces" in work.notices[0]


def test_a_wrapped_piece_never_holds_a_row_twice(tmp_path: Path) -> None:
    table = completions({f"p{i}": ["a"] for i in range(4)})
    for index in (1, 2, 3):
        found = rows(take_batch(table, Workspace(tmp_path), index=index, size=10, wrap=True))
        assert sorted(r["prompt_id"] for r in found) == ["p0", "p1", "p2", "p3"]


def test_tables_put_together_keep_all_rows_in_order(tmp_path: Path) -> None:
    metadata = {"template": "abc"}
    one, two = (completions({"x": ["a", "b"], "y": ["a"]}, stream=s, metadata=metadata) for s in (0, 1))
    found = saved(concat([one, two], Workspace(tmp_path / "w")), tmp_path / "t")
    assert isinstance(found, Completions)
    assert rows(found) == rows(one) + rows(two)
    assert found.metadata == metadata


def test_the_same_draws_are_not_put_together(tmp_path: Path) -> None:
    table = completions({"x": ["a", "b"]})
    with pytest.raises(DataError, match="2 of 4 rows have the same completion_id as another row"):
        concat([table, completions({"x": ["other", "texts"]})], Workspace(tmp_path))


def test_rows_that_may_repeat_are_put_together(tmp_path: Path) -> None:
    row = {"prompt_id": "x", "completion_id": "x/0/0", "logps": -1.0, "lengths": 2}
    table = Logps.of(pa.Table.from_pylist([row], Logps.SCHEMA))
    assert len(saved(concat([table, table], Workspace(tmp_path / "w")), tmp_path / "t")) == 2


def test_tokens_of_two_templates_are_left_out_with_a_notice(tmp_path: Path) -> None:
    one = completions({"x": ["a"]}, metadata={"template": "abc", "other": "1"})
    two = completions({"y": ["b"]}, metadata={"template": "def", "other": "1"})
    work = Workspace(tmp_path / "w")
    found = saved(concat([one, two], work), tmp_path / "t")
    assert found.metadata == {"other": "1"}
    assert [(r["prompt_tokens"], r["completion_tokens"]) for r in rows(found)] == [(None, None)] * 2
    assert [r["token_logps"] for r in rows(found)] == [[-0.5], [-0.5]]
    assert "2 templates" in work.notices[0]


def test_margins_are_differences_of_the_scores_where_they_are_given(tmp_path: Path) -> None:
    table = completions({"x": ["a", "b", "c", "none"], "y": ["b", "a"]})
    by_text = {"a": 1.0, "b": 3.0, "c": 1.0, "none": None}
    scores = score(table, scorer(by_text), Workspace(tmp_path / "s"))
    judged = win_probs([
        ("x", "x/0/0", "x/0/1", 0.2), ("x", "x/0/0", "x/0/2", 0.5), ("x", "x/0/0", "x/0/3", 0.9),
        ("y", "y/0/0", "y/0/1", 0.8),
    ])  # fmt: skip
    rule = Chosen("pair_rules", "as_sampled", {})
    backwards = type(scores).of(scores.table.take(pa.array([5, 3, 4, 2, 1, 0])), scores.metadata)
    found = rows(pairs(table, judged, Workspace(tmp_path / "p"), backwards, rule=rule))
    assert [(r["chosen_id"], r["rejected_id"], r["margin"]) for r in found] == [
        ("x/0/0", "x/0/1", -2.0), ("x/0/0", "x/0/2", 0.0), ("x/0/0", "x/0/3", None), ("y/0/0", "y/0/1", 2.0),
    ]  # fmt: skip
    assert [r["p"] for r in found] == [0.2, 0.5, 0.9, 0.8]
    some = type(scores).of(scores.table.slice(1), scores.metadata)
    with pytest.raises(DataError, match=r"1 of 6 ids of the completions, in `scores`, are unknown"):
        pairs(table, judged, Workspace(tmp_path / "q"), some, rule=rule)
