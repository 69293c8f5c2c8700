import numpy as np
import pytest
import torch
from scipy import stats

from tasks.sampling.draw import Noise, gumbel, logps_of, sampled_tokens, truncated
from tasks.sampling.requests import Options

CPU = torch.device("cpu")
# ½, ¼, ⅛, ⅛ and a token of no weight worth naming.
LOGITS = torch.tensor([[0.5, 0.25, 0.125, 0.125, 1e-9]]).log()


def kept(options: Options, logits: torch.Tensor = LOGITS) -> list[int]:
    return truncated(logits, options)[0].isfinite().nonzero()[:, 0].tolist()


def test_the_noise_of_a_position_does_not_depend_on_who_else_is_drawn() -> None:
    first, second = Noise(7), Noise(8)
    alone = [gumbel([Noise(7)], 5, CPU)[0]]
    together = gumbel([second, first], 5, CPU)
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_noise_is_addressed_by_position_and_token() -> None:
    stream, whole = Noise(2**63 - 1), Noise(2**63 - 1)
    by_position = [stream.words(6) for _ in range(4)]
    assert np.array_equal(np.concatenate(by_position), whole.words(24))


def test_noise_is_standard_gumbel() -> None:
    values = gumbel([Noise(s) for s in range(40)], 500, CPU).flatten().numpy()
    assert stats.kstest(values, "gumbel_r").pvalue > 1e-3


def test_temperature_sharpens_the_softmax() -> None:
    # At temperature ½ the weights ½ ¼ ⅛ ⅛ are squared: 16, 4, 1, 1 of 22.
    streams = [Noise(s) for s in range(8800)]
    counts = sampled_tokens(LOGITS.expand(8800, -1), streams, Options(temperature=0.5)).bincount(minlength=5)
    assert stats.chisquare(counts[:4].numpy(), [6400, 1600, 400, 400]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(), [0, 1, 2, 3, 4]),
        (Options(top_k=1), [0]),
        (
            Options(top_k=3),
            [0, 1, 2, 3],
        ),  # the third and fourth are equally likely: a tie with the last one kept is kept
        (Options(top_k=9), [0, 1, 2, 3, 4]),
        (Options(top_p=0.5), [0]),
        (Options(top_p=0.51), [0, 1]),
        (Options(top_p=0.8), [0, 1, 2]),
        (Options(top_p=0.66), [0, 1]),
        (Options(top_p=0.66, top_k=2), [0]),  # of the two kept, the first holds 2/3
        (Options(top_p=0.5, temperature=100.0), [0, 1, 2]),  # nearly even: three of five hold more than half
    ],
)
def test_truncation_keeps_what_it_says(options: Options, expected: list[int]) -> None:
    assert kept(options) == expected


def test_temperature_zero_takes_the_likeliest_token() -> None:
    assert sampled_tokens(LOGITS.flip(1), [Noise(0)], Options(temperature=0.0)).tolist() == [4]


def test_log_probabilities_ignore_temperature_and_truncation() -> None:
    logps = logps_of(LOGITS.expand(3, -1) + 5, torch.tensor([0, 1, 3]))
    assert logps.tolist() == pytest.approx([-0.6931472, -1.3862944, -2.0794415], abs=1e-6)
