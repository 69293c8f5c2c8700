"""Losses refuse tensors of other shapes, and name the shapes."""

import pytest
from torch import ones

from tasks.contract import Chosen

WRONG = {
    "pairwise/dpo": [ones(2), ones(1), ones(2), ones(1), ones(1), ones(2), ones(2)],
    "reward/bradley_terry": [ones(2), ones(1), ones(2)],
    "pointwise/sppo": [ones(1), ones(1), ones(2), ones(2, 1)], "pointwise/sft": [ones(2), ones(1)],
    "listwise/rrhf": [ones(1, 2), ones(1, 3), ones(1, 2), ones(1, 2).bool()],
    "rl/clipped": [ones(2), ones(2), ones(3)], "rl/kl_penalty": [ones(2), ones(2), ones(3)],
}  # fmt: skip


@pytest.mark.parametrize("loss", WRONG)
def test_shapes_that_differ_are_refused(loss: str) -> None:
    folder, name = loss.split("/")
    with pytest.raises(ValueError, match=r"\(\d(, \d)?,?\).*\(\d(, \d)?,?\)"):
        Chosen(f"losses/{folder}", name, {}).function(*WRONG[loss])
