"""The course of the learning rate, and which parameters decay."""

import pytest
import torch

from tasks.training.optimizer import make_optimizer
from tasks.training.settings import AdamConfig


def test_the_rate_rises_in_equal_parts_and_falls_to_zero_behind_the_last_step() -> None:
    """8 steps, a quarter of warm-up: ⅓ ⅔ | 1 5/6 4/6 3/6 2/6 1/6."""
    rates = [AdamConfig("linear", 0.25).lr_at(s, 8, 6.0) for s in range(8)]
    assert rates == pytest.approx([2, 4, 6, 5, 4, 3, 2, 1])


def test_cosine_is_half_way_down_in_the_middle_and_constant_stays() -> None:
    assert AdamConfig("cosine", 0.0).lr_at(5, 10, 1.0) == pytest.approx(0.5)
    assert [AdamConfig("constant", 0.0).lr_at(s, 10, 1.0) for s in (0, 9)] == [1.0, 1.0]


@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
def test_matrices_decay_and_vectors_do_not(name: str) -> None:
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([matrix, vector], name, 0.1, (0.9, 0.95), 0.5)
    matrix.grad, vector.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    assert (matrix < 1).all()
    assert (vector == 1).all()
