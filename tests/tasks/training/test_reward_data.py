"""Reward models beyond pairs: a K-wise loss on rankings and a regression on scores, through fit_reward."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.contract import Chosen, DataError
from tasks.kinds import Policy, Rankings, RewardModel, Table
from tasks.training.examples import Examples, examples_of, loss_on_batch
from tasks.training.metrics import StepLosses, step_metrics
from tasks.training.rows import rows_of
from tasks.training.scores import with_end_token
from tests.flat import fit_reward
from tests.losses import PLACKETT_LUCE, loss_of
from tests.tasks.training.tables import rankings, scores, tokenized
from tests.workspace import Workspace

SQUARED = "def squared(scores, target_scores):\n    return (scores - target_scores) ** 2\n"


@pytest.fixture
def plackett_luce(monkeypatch: pytest.MonkeyPatch) -> Chosen:
    return loss_of(monkeypatch, "reward", "plackett_luce", PLACKETT_LUCE)


def _examples(table: Table, policy: Policy, loss: Chosen, folder: Path) -> Examples:
    ready = tokenized(table, policy, folder)
    return examples_of(ready, with_end_token(rows_of(ready, policy)), loss, None, RewardModel)


def test_a_k_wise_loss_is_filled_with_the_scores_of_each_ranking(
    policy: Policy, plackett_luce: Chosen, tmp_path: Path
) -> None:
    """Weights 3, 2, 1 in the right order: P = 3/6 · 2/3 = 1/3. Weights 1, 3 of two answers in the wrong one: 1/4."""
    table = rankings((3, 2)).table
    field = table.schema.field("scores")
    targets = pa.array([[3.0, 2.0, 1.0], [5.0, 4.0]], field.type)
    ranked = Rankings.of(table.set_column(table.column_names.index("scores"), field, targets))
    examples = _examples(ranked, policy, plackett_luce, tmp_path)
    outputs = torch.tensor([3.0, 2.0, 1.0, 1.0, 3.0], dtype=torch.float64).log()
    losses = loss_on_batch(examples, plackett_luce, torch.tensor([0, 1]), outputs)
    assert losses.tolist() == pytest.approx([math.log(3), math.log(4)])


def test_metrics_of_rankings_compare_every_two_answers_to_a_prompt_of_which_one_is_better(
    policy: Policy, plackett_luce: Chosen, tmp_path: Path
) -> None:
    """Target scores 3 2 2, 2 2, 4 3 2 2: differences 0−1, 0−2; none; 8−5, 8−6, 8−7, 5−6, 5−7."""
    examples = _examples(rankings((3, 2, 4)), policy, plackett_luce, tmp_path)
    outputs = torch.tensor([0, 1, 2, 3, 4, 8, 5, 6, 7], dtype=torch.float64)
    assert step_metrics(examples, StepLosses(np.arange(3), torch.ones(3), outputs)) == {
        "train/loss": 1.0, "rewards/chosen": pytest.approx((0 + 3 + 4 + 8) / 4),
        "rewards/rejected": pytest.approx((1 + 2 + 5 + 6 + 7) / 5),
        "rewards/margins": pytest.approx((-1 - 2 + 3 + 2 + 1 - 1 - 2) / 7),
        "rewards/accuracies": pytest.approx(3 / 7),
    }  # fmt: skip


def test_a_reward_model_learns_scores_by_regression(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squared = loss_of(monkeypatch, "reward", "squared", SQUARED)
    work, data = Workspace(tmp_path), tokenized(scores([2.0, -1.0, 0.5, 3.0] * 3), policy, tmp_path)
    fit_reward(policy, data, work, loss=squared, lr=3e-3, epochs=30, batch=6)
    curve = [metrics for _, metrics in work.curves]
    assert curve[-1]["train/loss"] < 0.1 * curve[0]["train/loss"]
    assert {name for name in curve[0] if "/" in name} == {"train/loss", "rewards/mean"}


def test_a_score_that_the_oracle_did_not_give_is_refused(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squared = loss_of(monkeypatch, "reward", "squared", SQUARED)
    with pytest.raises(DataError, match="not finite on 1 of 2 rows, first row 1, where the table has no target_scores"):
        _examples(scores([1.0, None]), policy, squared, tmp_path)
