import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from tasks.sampling.noise import Noise, gumbel

CPU = torch.device("cpu")
SIZES = (5, 6, 7, 8, 321, 1500)


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


def test_the_kernel_for_gpus_makes_the_same_noise(tmp_path: Path) -> None:
    """In Triton's interpreter, which has to be switched on before Triton is imported."""
    pytest.importorskip("triton")
    seeds, positions = [0, 7, 123456789012345678, 2**63 - 1], [0, 1, 5, 10**9]
    code = (
        "import torch\nfrom tasks.sampling.noise_kernel import gumbel_by_triton\n"
        f"seeds, positions = torch.tensor({seeds}), torch.tensor({positions})\n"
        f"made = {{size: gumbel_by_triton(seeds, positions, size) for size in {SIZES}}}\n"
        f"torch.save(made, {str(tmp_path / 'noise.pt')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    for size, noise in torch.load(tmp_path / "noise.pt").items():
        assert torch.equal(noise, gumbel([Noise(s) for s in seeds], positions, size, CPU))
