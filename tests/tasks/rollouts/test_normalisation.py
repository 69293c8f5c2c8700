"""The weight of each answer's tokens: worked by hand for a minibatch of 2 and 6 tokens, of an iteration of 16."""

import pytest
import torch

from tasks.rollouts.normalisation import Normalisation, answer_weights, normalisation_of

LENGTHS = torch.tensor([2, 6])
WEIGHTS: dict[Normalisation, list[float]] = {
    "sequence": [1 / 4, 1 / 12], "token": [1 / 8, 1 / 8], "global": [2 / 16, 2 / 16], "constant": [1 / 20, 1 / 20],
    "sum": [1 / 2, 1 / 2],
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_two_answers(name: Normalisation) -> None:
    found = answer_weights(name, LENGTHS, tokens_in_all=16, minibatches=2, max_tokens=10)
    assert (found.dtype, found.tolist()) == (torch.float64, pytest.approx(WEIGHTS[name]))


def test_weights_of_the_whole_iteration_are_those_of_one_minibatch_where_there_is_one() -> None:
    """And of two minibatches of unequal tokens they are one number, where `token` has two."""
    single = [answer_weights(n, LENGTHS, tokens_in_all=8, minibatches=1) for n in ("global", "token")]
    assert single[0].equal(single[1])
    parts = [torch.tensor([1, 2]), torch.tensor([6, 3])]
    of_all, of_each = (
        [answer_weights(n, p, tokens_in_all=12, minibatches=2)[0].item() for p in parts] for n in ("global", "token")
    )
    assert of_all == pytest.approx([1 / 6, 1 / 6])
    assert of_each == pytest.approx([1 / 3, 1 / 9])


def test_an_answer_that_is_not_learnt_from_has_no_tokens_and_stays_one_of_the_answers() -> None:
    lengths = torch.tensor([2, 0])
    for name, weight in (("sequence", 1 / 4), ("token", 1 / 2), ("sum", 1 / 2)):
        assert answer_weights(name, lengths, tokens_in_all=2, minibatches=1)[0] == pytest.approx(weight)  # type: ignore[arg-type]


def test_the_names_of_the_field_are_aliases() -> None:
    fields = {"grpo": "sequence", "bnpo": "token", "dapo": "global", "dr_grpo": "constant"}
    for name, ours in {**fields, **{n: n for n in WEIGHTS}}.items():
        assert normalisation_of(name) == ours  # type: ignore[arg-type]


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="`constant` divides by max_tokens, which is not set"):
        answer_weights("constant", LENGTHS, tokens_in_all=8, minibatches=1)
    with pytest.raises(ValueError, match="the minibatch has no answers"):
        answer_weights("sum", LENGTHS[:0], tokens_in_all=8, minibatches=1)
