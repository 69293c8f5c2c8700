"""What a judged table shows of its oracle, by hand."""

import math
import time

import numpy as np
import pyarrow as pa
import pytest

from tasks.contract import DataError
from tasks.judging.oracle_statistics import comparison_statistics, score_statistics


def _answers(**texts: str) -> pa.Table:
    return pa.table({"completion_id": list(texts), "completion": list(texts.values())})


def _questions(*rows: tuple[str, str, float | None, str | None]) -> pa.Table:
    a, b, p, first = zip(*rows, strict=True)
    return pa.table({
        "a_id": a, "b_id": b, "p": pa.array(p, pa.float64()), "first": pa.array(first, pa.string()),
    })  # fmt: skip


FOUR = _answers(w="a", x="bb", y="cccc", z="dddddddd")


def test_a_pair_is_consistent_when_both_orders_have_the_same_winner() -> None:
    # w-x: w wins in both orders. w-y: the first side wins both times. x-y: a tie both times.
    # y-z: a tie in one order only. x-z has one order. Consistent: 2 of 4.
    made = comparison_statistics(
        _questions(
            ("w", "x", 0.9, "a"), ("w", "x", 0.6, "b"), ("w", "y", 0.7, "a"), ("w", "y", 0.2, "b"),
            ("x", "y", 0.5, "a"), ("x", "y", 0.5, "b"), ("y", "z", 0.5, "a"), ("y", "z", 0.6, "b"),
            ("x", "z", 0.8, "a"),
        ),
        FOUR,
    )  # fmt: skip
    assert made.order_consistency == pytest.approx(2 / 4)
    # Decided: w-x (first: yes, no), w-y (yes, yes), y-z (b first, a wins: no), x-z (yes): 4 of 6.
    assert made.first_position == pytest.approx(4 / 6)
    assert made.ties == pytest.approx(3 / 9)
    assert made.nulls == 0


def test_a_judge_that_always_takes_the_first_side_is_never_consistent() -> None:
    made = comparison_statistics(_questions(("w", "x", 0.9, "a"), ("w", "x", 0.1, "b")), FOUR)
    assert made.order_consistency == 0
    assert made.first_position == 1
    assert made.length_correlation is None  # the mean over the orders is ½: it has no preference


def test_missing_answers_count_as_nulls_and_nowhere_else() -> None:
    made = comparison_statistics(
        _questions(("w", "x", None, "a"), ("w", "x", 0.9, "b"), ("w", "y", math.nan, "a"), ("w", "y", 0.1, "b")), FOUR
    )
    assert made.nulls == pytest.approx(2 / 4)
    assert made.order_consistency is None
    assert made.first_position == pytest.approx(1 / 2)
    assert made.ties == 0


def test_an_oracle_without_an_order_has_no_statistics_of_order() -> None:
    made = comparison_statistics(_questions(("w", "x", 0.9, None), ("w", "y", 0.5, None)), FOUR)
    assert made.order_consistency is None
    assert made.first_position is None
    assert made.ties == pytest.approx(1 / 2)
    assert made.known() == pytest.approx({"ties": 0.5, "nulls": 0.0, "length_correlation": made.length_correlation})


def test_the_correlation_with_length_is_that_of_lead_and_difference() -> None:
    # Leads .4 and −.2; differences of length, a minus b: w−x = −1, w−z = −7.
    made = comparison_statistics(_questions(("w", "x", 0.9, None), ("w", "z", 0.3, None)), FOUR)
    by_hand = (0.4 * -1 + -0.2 * -7) / math.sqrt((0.4**2 + 0.2**2) * (1 + 49))
    assert made.length_correlation == pytest.approx(by_hand)
    # It does not depend on which answer is called a.
    swapped = comparison_statistics(_questions(("x", "w", 0.1, None), ("w", "z", 0.3, None)), FOUR)
    assert swapped.length_correlation == pytest.approx(by_hand)


def test_a_preference_in_proportion_to_length_has_correlation_one() -> None:
    questions = _questions(("w", "x", 0.45, None), ("z", "y", 0.7, None), ("z", "w", 0.85, None))
    assert comparison_statistics(questions, FOUR).length_correlation == pytest.approx(1)


def test_a_pair_called_both_ways_is_one_pair() -> None:
    # (x, w) with x first is the other order of (w, x) with w first: w wins in both.
    made = comparison_statistics(_questions(("w", "x", 0.9, "a"), ("x", "w", 0.2, "a")), FOUR)
    assert made.order_consistency == 1
    assert made.first_position == pytest.approx(1 / 2)


def test_equal_texts_are_no_question() -> None:
    answers = _answers(w="same", x="same", y="other text")
    made = comparison_statistics(_questions(("w", "x", 0.5, "a"), ("w", "y", 0.9, "a")), answers)
    assert made.ties == 0
    assert comparison_statistics(_questions(("w", "x", 0.5, "a")), answers) == (None,) * 5


def test_answers_may_come_from_two_tables() -> None:
    made = comparison_statistics(_questions(("w", "v", 0.9, None)), FOUR, _answers(v="bbb"))
    assert made.length_correlation == pytest.approx(-1)


def test_an_unknown_answer_is_refused() -> None:
    with pytest.raises(DataError, match="1 of 2 questions have an b_id that is not one of the answers"):
        comparison_statistics(_questions(("w", "x", 0.9, None), ("w", "v", 0.9, None)), FOUR)


def test_one_id_with_two_texts_is_refused() -> None:
    with pytest.raises(DataError, match="completion_id of another text"):
        comparison_statistics(_questions(("w", "x", 0.9, None)), FOUR, _answers(w="another"))


def _scores(*rows: tuple[str, str, float | None]) -> pa.Table:
    prompts, texts, scores = zip(*rows, strict=True)
    return pa.table({"prompt_id": prompts, "completion": texts, "score": pa.array(scores, pa.float64())})


def test_scores_correlate_with_length_within_prompts_only() -> None:
    # Long answers of the prompt q score high, but within each prompt the shorter one is better.
    made = score_statistics(_scores(("p", "a", 2.0), ("p", "aaa", 1.0), ("q", "a" * 50, 9.0), ("q", "a" * 52, 8.0)))
    assert made.length_correlation == pytest.approx(-1)
    # Residuals: lengths −1, 1 | −2, 2; scores .5, −.5 | −3, 3.
    made = score_statistics(_scores(("p", "a", 2.0), ("p", "aaa", 1.0), ("q", "a", 0.0), ("q", "a" * 5, 6.0)))
    assert made.length_correlation == pytest.approx((-1 + 12) / math.sqrt((2 + 8) * (0.5 + 18)))
    assert made.order_consistency is made.first_position is None


def test_equal_scores_correlate_with_nothing() -> None:
    # The mean of three times 0.1 is not 0.1 in floating point; what remains is no preference.
    made = score_statistics(_scores(("p", "a", 0.1), ("p", "aa", 0.1), ("p", "aaaa", 0.1)))
    assert made.length_correlation is None
    assert made.ties == 1


def test_ties_and_nulls_of_scores_count_distinct_answers() -> None:
    # p: a, b, c score 1, 1, 2: one of three pairs is a tie. q has one answer. The second "a" of p is the same question.
    made = score_statistics(
        _scores(("p", "a", 1.0), ("p", "b", 1.0), ("p", "c", 2.0), ("p", "a", 1.0), ("q", "a", 1.0), ("q", "b", None))
    )
    assert made.ties == pytest.approx(1 / 3)
    assert made.nulls == pytest.approx(1 / 5)


def test_a_table_without_rows_determines_nothing() -> None:
    empty = _questions(("w", "x", 0.9, None)).slice(0, 0)
    assert comparison_statistics(empty, FOUR) == (None,) * 5
    assert score_statistics(_scores(("p", "a", 1.0)).slice(0, 0)) == (None,) * 5


def test_a_hundred_thousand_questions_take_less_than_two_seconds_of_processors() -> None:
    n, k = int(__import__("os").environ.get("NN", 100_000)), 5
    texts = [("word " * (i % 40)) + str(i) for i in range(n // 2)]
    answers = pa.table({"completion_id": [f"id{i:032d}" for i in range(n // 2)], "completion": texts})
    at = np.arange(n // 2)
    ids = answers.column("completion_id")
    a, b = (ids.take(pa.array(np.repeat(x, 2))) for x in (at, (at + k) % (n // 2)))
    first = pa.array(np.where(np.arange(n) % 2 == 0, "a", "b"))
    p = pa.array(np.random.default_rng(0).random(n))
    questions = pa.table({"a_id": a, "b_id": b, "p": p, "first": first})
    start = time.process_time()
    made = comparison_statistics(questions, answers)
    assert time.process_time() - start < 2
    assert made.order_consistency == pytest.approx(0.5, abs=0.02)
    assert made.first_position == pytest.approx(0.5, abs=0.02)
