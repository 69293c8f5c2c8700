"""What replies mean, worked by hand."""

import json
import math

import pytest

from tasks.asking.reply import Reply, reply_of
from tasks.asking.verdicts import agreed, grades_of, probability_of, rating_of, verdict_of, weighted_grade
from tests.chat_server import saying


def reply(text: str, *, whole: bool = True, **first: float) -> Reply:
    return Reply(text, whole, first, None)


VERDICTS = {
    "[[A]]": 1.0, "I prefer the second.\n[[B]]": 0.0, "Both are right. [[C]]": 0.5,
    "Answer B says '[[B]]', which is a trick.\n[[A]]": 1.0,
    "Answer B says '[[B]]'.\n\n**[[A]]**\n": 1.0,
    "[[A]], that is: [[A]]": 1.0,
    "[[A]] or perhaps [[B]]": None,
    "[[B]]\nAnswer A writes [[A]] itself": None,
    "My final verdict is: A": None, "": None, "[[D]]": None, "[[a]]": None, "[A]": None,
}  # fmt: skip


@pytest.mark.parametrize(("text", "p"), VERDICTS.items())
def test_a_verdict_alone_on_the_last_line_counts_and_else_all_must_be_the_same(text: str, p: float | None) -> None:
    assert verdict_of(reply(text)) == p


def test_a_reply_that_was_cut_has_no_verdict_and_no_rating_and_no_grades() -> None:
    assert verdict_of(reply("Answer A writes [[A]]", whole=False)) is None
    assert rating_of(reply("[[7]]", whole=False), 1, 10) is None
    assert grades_of(reply("[[1: 7]]", whole=False), 1, 1, 10) is None


RATINGS = {"[[7]]": 7.0, "Good.\n[[ 7.5 ]]": 7.5, "It claims [[10]].\n[[2]]": 2.0, "[[11]]": None, "[[0]]": None,
           "[[-3]]": None, "[[7]] or [[8]]": None, "7": None, "[[7/10]]": None}  # fmt: skip


@pytest.mark.parametrize(("text", "rating"), RATINGS.items())
def test_a_rating_is_in_double_brackets_and_within_its_range(text: str, rating: float | None) -> None:
    assert rating_of(reply(text), 1, 10) == rating


def test_grades_of_all_criteria_are_weighed_and_one_that_is_missing_or_twofold_makes_them_null() -> None:
    text = "Facts are right.\n[[1: 9]]\n[[2: 4]]"
    assert grades_of(reply(text), 2, 1, 10) == [9.0, 4.0]
    assert weighted_grade(reply(text), [3, 1], 1, 10) == pytest.approx((3 * 9 + 1 * 4) / 4)
    assert grades_of(reply(text), 3, 1, 10) is None
    assert grades_of(reply(f"{text}\n[[2: 5]]"), 2, 1, 10) is None
    assert grades_of(reply("[[1: 9]]\n[[2: 40]]"), 2, 1, 10) is None
    assert grades_of(reply(f"{text}\n[[3: 5]]"), 2, 1, 10) is None


def test_a_probability_is_the_softmax_over_the_two_letters_with_and_without_a_space() -> None:
    assert probability_of(reply("A", A=-1.0, B=-2.0)) == pytest.approx(1 / (1 + math.exp(-1)))
    two = {"A": math.log(0.2), " A": math.log(0.1), "B": math.log(0.1), "x": math.log(0.6)}
    assert probability_of(reply("x", **two)) == pytest.approx(0.75)


@pytest.mark.parametrize("first", [{}, {"A": -0.1}, {"A": -0.1, "b": -2.0}, {"The": -0.1}])
def test_a_probability_is_null_where_a_letter_is_missing(first: dict[str, float]) -> None:
    assert probability_of(reply("A", **first)) is None


@pytest.mark.parametrize(
    ("forward", "backward", "p"),
    [(1, 1, 1), (0, 0, 0), (1, 0, 0.5), (1, 0.5, 0.5), (0.9, 0.7, 0.8), (0.9, 0.4, 0.5), (None, 1, None)],
)
def test_a_pair_is_decided_only_where_both_orders_agree(
    forward: float | None, backward: float | None, p: float | None
) -> None:
    assert agreed(forward, backward) == (None if p is None else pytest.approx(p))


def test_a_response_is_read_as_a_chat_completion_or_refused() -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 3}
    read = reply_of(json.dumps({"choices": [saying("A", "length", {"A": -0.5, "B": -1.0})], "usage": usage}))
    assert read == Reply("A", False, {"A": -0.5, "B": -1.0}, (12, 3))
    assert reply_of(json.dumps({"choices": [saying("A")]})).tokens is None
    for broken in ("", "<html>", '{"choices": []}', '{"error": {}}', "[]", '{"choices": [{"message": {"conte'):
        with pytest.raises(ValueError, match=r"it is not a chat completion|Expecting|Unterminated"):
            reply_of(broken)
