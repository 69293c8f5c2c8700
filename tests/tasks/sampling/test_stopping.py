import pytest

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


ENDS = {
    "a stop token stays": ([1, 2, 0], (), ("ab", [1, 2, 0], "stop")),
    "a cut answer gets none": ([1, 2], (), ("ab", [1, 2], "length")),
    "ended at once": ([0], (), ("", [0], "stop")),
    "before the stop string, and the tokens with it": ([1, 2, 5, 1, 1], ("##",), ("ab", [1, 2, 5], "stop")),
    "a stop string inside a token and spelled by several": ([3, 6, 6, 1], ("b##",), ("a", [3, 6, 6], "stop")),
    "the first of several": ([1, 4, 2, 5], ("##", "\n"), ("a", [1, 4], "stop")),
    "a stop string at the very first token": ([5, 1], ("#",), ("", [5], "stop")),
}


@pytest.mark.parametrize("case", ENDS)
def test_an_answer_ends_where_it_stops(case: str) -> None:
    tokens, stop, (text, kept, reason) = ENDS[case]
    assert end(tokens, *stop) == Answer(text, kept, [-float(t) for t in kept], reason)  # type: ignore[arg-type]


def test_stop_strings_are_found_at_the_end_of_unfinished_answers() -> None:
    long = [1] * 50
    assert reached_stop(Spelled(), [[*long, 6, 6], [*long, 6], [3]], ["##", "bb"]) == [True, False, False]
    assert reached_stop(Spelled(), [[*long, 6, 6]], []) == [False]
