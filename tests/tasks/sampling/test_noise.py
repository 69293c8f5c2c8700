import numpy as np
import pytest
import torch
from scipy import stats

from tasks.sampling.noise import Noise, gumbel, gumbel_by_torch

CPU = torch.device("cpu")


def test_the_noise_of_a_completion_does_not_depend_on_the_batch() -> None:
    alone = gumbel([Noise(7)], [3], 5, CPU)
    together = gumbel([Noise(8), Noise(7)], [3, 3], 5, CPU)
    assert torch.equal(together[1:], alone)
    assert not torch.equal(together[0], together[1])


def test_noise_is_addressed_by_position_and_token() -> None:
    whole = Noise(2**63 - 1).words(0, 24)
    stream = Noise(2**63 - 1)
    for position in (0, 1, 2, 3, 1, 3):
        assert np.array_equal(stream.words(position, 6), whole[6 * position : 6 * position + 6])


def test_noise_is_standard_gumbel() -> None:
    values = gumbel([Noise(s) for s in range(40)], [0] * 40, 500, CPU).flatten().numpy()
    assert stats.kstest(values, "gumbel_r").pvalue > 1e-3


@pytest.mark.parametrize("size", [5, 6, 7, 8, 321])
def test_torch_computes_the_same_noise_as_numpy(size: int) -> None:
    seeds, positions = [0, 7, 123456789012345678, 2**63 - 1], [0, 1, 5, 10**9]
    ours = gumbel_by_torch(torch.tensor(seeds), torch.tensor(positions), size)
    assert torch.equal(ours, gumbel([Noise(s) for s in seeds], positions, size, CPU))
