import pytest

from tasks.sampling.requests import Options, SampledAnswer
from tasks.sampling.stopping import finished_answer, reached_stop


class WordTokenizer:
    """Token n is the n-th of its words; 0 is EOS and has no text."""

    WORDS = ("", "a", "b", "ab", "\n", "##", "#")

    def decode(self, tokens: list[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        assert skip_special_tokens
        assert not clean_up_tokenization_spaces
        return "".join(self.WORDS[t] for t in tokens)

    def batch_decode(self, rows: list[list[int]], **how: bool) -> list[str]:
        return [self.decode(row, **how) for row in rows]


def end(tokens: list[int], *stop: str) -> SampledAnswer:
    return finished_answer(
        WordTokenizer(), tokens, [-float(t) for t in tokens], Options(stop=stop, stop_ids=frozenset({0}))
    )


ENDS = {
    "a stop token stays": ([1, 2, 0], (), ("ab", [1, 2, 0], "stop")),
    "an answer of maximum length gets none": ([1, 2], (), ("ab", [1, 2], "length")),
    "a stop token as the first token": ([0], (), ("", [0], "stop")),
    "the text ends before the stop string, the tokens after it": ([1, 2, 5, 1, 1], ("##",), ("ab", [1, 2, 5], "stop")),
    "a stop string that starts inside a token": ([3, 6, 6, 1], ("b##",), ("a", [3, 6, 6], "stop")),
    "the first of several": ([1, 4, 2, 5], ("##", "\n"), ("a", [1, 4], "stop")),
    "a stop string at the very first token": ([5, 1], ("#",), ("", [5], "stop")),
}


@pytest.mark.parametrize("case", ENDS)
def test_an_answer_ends_at_its_stop_token_or_stop_string(case: str) -> None:
    tokens, stop, (text, kept, reason) = ENDS[case]
    assert end(tokens, *stop) == SampledAnswer(text, kept, [-float(t) for t in kept], reason)  # type: ignore[arg-type]


def test_a_stop_string_is_recognised_when_its_last_token_is_sampled() -> None:
    long = [1] * 50
    assert reached_stop(WordTokenizer(), [[*long, 6, 6], [*long, 6], [3]], ["##", "bb"]) == [True, False, False]
    assert reached_stop(WordTokenizer(), [[*long, 6, 6]], []) == [False]
