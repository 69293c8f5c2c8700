"""The soft penalty on long answers: its corners, and settings that cannot be."""

import pytest
import torch

from tasks.advantages.overlong import overlong_penalty


def test_it_falls_from_0_to_minus_1_over_the_last_tokens() -> None:
    """At most 10 tokens, the last 4 cost: free up to 6, then a quarter each."""
    found = overlong_penalty(torch.tensor([1, 6, 7, 8, 10, 12]), longest=10, cache=4)
    assert found.tolist() == [0, 0, -0.25, -0.5, -1, -1]


@pytest.mark.parametrize("cache", [0, 11])
def test_a_cache_that_is_no_part_of_the_answer_is_refused(cache: int) -> None:
    with pytest.raises(ValueError, match=rf"cache is {cache}; it must be at least 1 and at most .* 10 tokens"):
        overlong_penalty(torch.tensor([1]), longest=10, cache=cache)
