"""APO's two-stream loss: people's pairs and golden ones in one table, weighted, and one plain mean."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.contract import Chosen
from tasks.kinds import Demonstrations, Preferences, RewardModel
from tasks.select import concat, gold_pairs
from tasks.training.examples import Examples, examples_of, loss_on_batch
from tasks.training.metrics import StepLosses, step_metrics
from tasks.training.rows import rows_of
from tasks.training.scores import with_end_token
from tests.answers import completions, saved
from tests.models import tiny_policy
from tests.tasks.training.tables import message, tokenized
from tests.workspace import Workspace

BT = Chosen("losses/reward", "bradley_terry", {})
COEFFICIENT, SAMPLES = 0.1, 4


def _streams(folder: Path, weight: float) -> Examples:
    """Row 0: a pair that people judged. Row 1: a golden answer against a sample."""
    policy = tiny_policy(folder / "policy")
    asked = {"prompt_id": "x", "prompt": message("ask x")}
    people = Preferences.of(pa.Table.from_pylist([
        {**asked, "chosen_id": "w", "rejected_id": "l", "chosen": "fish", "rejected": "roots", "p": 0.9},
    ]))  # fmt: skip
    golden = Demonstrations.of(pa.Table.from_pylist([{**asked, "completion_id": "g", "completion": "the swan eats"}]))
    adversary = gold_pairs(golden, completions({"x": ["swamp"]}), Workspace(folder / "g"), weight=weight)
    both = saved(concat([people, adversary], Workspace(folder / "c")), folder / "both")
    table = tokenized(both, policy, folder)
    return examples_of(table, with_end_token(rows_of(table, policy)), BT, None, RewardModel)


def _loss(examples: Examples, rows: list[int]) -> float:
    """What the training loop takes the gradient of, for a batch of these rows and the published scores."""
    scores = torch.tensor([1, 0.2, 0.5, 0.7], dtype=torch.float64)[[a for r in rows for a in (2 * r, 2 * r + 1)]]
    losses = loss_on_batch(examples, BT, torch.tensor(rows), scores)
    return step_metrics(examples, StepLosses(np.array(rows), losses, scores))["train/loss"]


def test_the_weighted_mean_is_the_authors_loss_over_their_shared_denominator(tmp_path: Path) -> None:
    """Scores 1, .2 and .5, .7: −log σ(.8) / 2 = .185550 and −log σ(−.2) / 2 = .399069, the latter times .1 / 4."""
    examples = _streams(tmp_path, COEFFICIENT / SAMPLES)
    assert examples.weights.tolist() == [1.0, 0.025]
    assert _loss(examples, [0, 1]) == pytest.approx(0.195527, abs=1e-6)
    assert _loss(examples, [0, 1]) == pytest.approx(0.185550 + COEFFICIENT / SAMPLES * 0.399069, abs=1e-6)


def test_each_stream_alone_is_its_own_mean(tmp_path: Path) -> None:
    examples = _streams(tmp_path, 1.0)
    assert _loss(examples, [0]) / 2 == pytest.approx(0.185550, abs=1e-6)
    assert _loss(examples, [1]) / 2 == pytest.approx(0.399069, abs=1e-6)
    assert _loss(examples, [0, 1]) == pytest.approx(0.185550 + 0.399069, abs=1e-6)
