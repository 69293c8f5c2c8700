"""Supervised fine-tuning: hand-worked values."""

import pytest
import torch

from tasks.losses.pointwise.sft import sft


def test_the_parity_answer_costs_two_nats_a_token() -> None:
    """S = −10 over n = 5 tokens."""
    assert sft(torch.tensor([-10.0]), torch.tensor([5.0])).item() == 2.0


def test_whole_answers_cost_their_negative_log_probability() -> None:
    assert sft(torch.tensor([-10.0, -3.0]), torch.tensor([5.0, 1.0]), average="answer").tolist() == [10.0, 3.0]


def test_likelier_answers_cost_less() -> None:
    logps = torch.tensor([-10.0, -4.0], requires_grad=True)
    sft(logps, torch.tensor([5.0, 2.0])).sum().backward()
    assert logps.grad.tolist() == pytest.approx([-0.2, -0.5])
