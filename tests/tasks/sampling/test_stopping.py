from __future__ import annotations

from tasks.sampling.requests import Answer, Options
from tasks.sampling.stopping import finished_answer, reached_stop


class Spelled:
    """A tokenizer whose token n is the n-th word of a list; 0 is EOS and has no text."""

    WORDS = ("", "a", "b", "ab", "\n", "##", "#")

    def decode(self, tokens: list[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        assert skip_special_tokens
        assert not clean_up_tokenization_spaces
        return "".join(self.WORDS[t] for t in tokens)

    def batch_decode(self, rows: list[list[int]], **how: bool) -> list[str]:
        return [self.decode(row, **how) for row in rows]


def end(tokens: list[int], *stop: str) -> Answer:
    return finished_answer(Spelled(), tokens, [-float(t) for t in tokens], Options(stop=stop, stop_ids=frozenset({0})))


def test_an_answer_that_ended_keeps_its_stop_token() -> None:
    assert end([1, 2, 0]) == Answer("ab", [1, 2, 0], [-1.0, -2.0, -0.0], "stop")


def test_a_cut_answer_gets_no_stop_token() -> None:
    assert end([1, 2]) == Answer("ab", [1, 2], [-1.0, -2.0], "length")


def test_an_answer_that_ended_at_once_is_empty() -> None:
    assert end([0]) == Answer("", [0], [-0.0], "stop")


def test_the_text_ends_before_the_stop_string_and_the_tokens_with_it() -> None:
    assert end([1, 2, 5, 1, 1], "##") == Answer("ab", [1, 2, 5], [-1.0, -2.0, -5.0], "stop")


def test_a_stop_string_may_begin_inside_a_token_and_be_spelled_by_several() -> None:
    assert end([3, 6, 6, 1], "b##") == Answer("a", [3, 6, 6], [-3.0, -6.0, -6.0], "stop")


def test_the_first_of_several_stop_strings_counts() -> None:
    assert end([1, 4, 2, 5], "##", "\n").text == "a"


def test_a_stop_string_at_the_very_first_token_leaves_nothing() -> None:
    assert end([5, 1], "#") == Answer("", [5], [-5.0], "stop")


def test_stop_strings_are_found_at_the_end_of_unfinished_answers() -> None:
    long = [1] * 50
    assert reached_stop(Spelled(), [[*long, 6, 6], [*long, 6], [3]], ["##", "bb"]) == [True, False, False]
    assert reached_stop(Spelled(), [[*long, 6, 6]], []) == [False]
