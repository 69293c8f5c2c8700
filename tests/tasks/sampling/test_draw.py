import pytest
import torch
from scipy import stats

from tasks.sampling.draw import logps_of, noisy_scores, truncated
from tasks.sampling.noise import Noise
from tasks.sampling.requests import Options

# ½, ¼, ⅛, ⅛ and a token of negligible probability.
LOGITS = torch.tensor([[0.5, 0.25, 0.125, 0.125, 1e-9]]).log()


def kept(options: Options, logits: torch.Tensor = LOGITS) -> list[int]:
    return truncated(logits, options)[0].isfinite().nonzero()[:, 0].tolist()


def test_temperature_sharpens_the_softmax() -> None:
    # At temperature ½ the weights ½ ¼ ⅛ ⅛ are squared: 16, 4, 1, 1 of 22.
    scores = noisy_scores(
        LOGITS.expand(8800, -1), [Noise(s) for s in range(8800)], [0] * 8800, Options(temperature=0.5)
    )
    counts = scores.argmax(1).bincount(minlength=5)
    assert stats.chisquare(counts[:4].numpy(), [6400, 1600, 400, 400]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(), [0, 1, 2, 3, 4]),
        (Options(top_k=1), [0]),
        (Options(top_k=3), [0, 1, 2, 3]),  # the third and the fourth are equally likely
        (Options(top_k=9), [0, 1, 2, 3, 4]),
        (Options(top_p=0.5), [0]),
        (Options(top_p=0.51), [0, 1]),
        (Options(top_p=0.8), [0, 1, 2]),
        (Options(top_p=0.66), [0, 1]),
        (Options(top_p=0.66, top_k=2), [0]),  # of the two kept, the first holds 2/3
        (Options(top_p=0.5, temperature=100.0), [0, 1, 2]),  # nearly even: three of five hold more than half
    ],
)
def test_truncation_keeps_the_likeliest_tokens(options: Options, expected: list[int]) -> None:
    assert kept(options) == expected


def test_temperature_zero_takes_the_likeliest_token() -> None:
    assert noisy_scores(LOGITS.flip(1), [Noise(0)], [0], Options(temperature=0.0)).argmax(1).tolist() == [4]


def test_log_probabilities_ignore_temperature_and_truncation() -> None:
    logps = logps_of(LOGITS.expand(3, -1) + 5, torch.tensor([0, 1, 3]))
    assert logps.tolist() == pytest.approx([-0.6931472, -1.3862944, -2.0794415], abs=1e-6)
