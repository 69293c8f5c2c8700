"""Run with `pytest`."""

from math import exp, log
from pathlib import Path

import pytest
import torch
from lab.losses.pairwise.capped_dpo import capped_dpo
from lab.oracles.brief import brief

from flows.wiring.check_results import check_pipelines


def test_every_pipeline_of_the_file_compiles() -> None:
    assert not [v.error for v in check_pipelines(Path(__file__).with_name("pipelines.yaml")) if v.error]


def test_the_loss_is_that_of_dpo_below_the_cap_and_flat_above_it() -> None:
    chosen, zero = torch.tensor([1.0, 9.0], requires_grad=True), torch.zeros(2)
    losses = capped_dpo(chosen, zero, zero, zero, beta=0.1, cap=5.0)
    assert losses.tolist() == pytest.approx([log(1 + exp(-0.1)), log(1 + exp(-0.5))])
    losses.sum().backward()
    assert chosen.grad is not None
    assert chosen.grad[0] < 0
    assert chosen.grad[1] == 0


def test_the_oracle_prefers_the_wanted_number_of_words() -> None:
    scores = list(brief(words=2).score([None] * 3, ["two words", "one", "these are four words"], [None] * 3))
    assert scores == [0.0, -0.5, -1.0]
