"""Rankings through the real training code: filling by name, padding, metrics, learning; tables of one class only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.contract import Chosen, DataError
from tasks.kinds import Logps, Policy, Rankings
from tasks.training.batches import PackingConfig, micro_batches
from tasks.training.examples import Examples, examples_of, loss_on_batch
from tasks.training.logps import AnswerLogps, inputs_of
from tasks.training.metrics import StepLosses, step_metrics
from tasks.training.model import open_model
from tasks.training.rows import rows_of
from tests.flat import fit, logps
from tests.models import tiny_policy
from tests.tasks.training.tables import RRHF, labels, rankings, tokenized
from tests.workspace import Workspace

SIZES = (3, 2, 4, 3)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return tiny_policy(tmp_path_factory.mktemp("policy"), generation={"max_new_tokens": 9})


@pytest.fixture
def ranked(policy: Policy, tmp_path: Path) -> Rankings:
    table = tokenized(rankings(SIZES), policy, tmp_path)
    assert isinstance(table, Rankings)
    return table


def _examples(table: Rankings, policy: Policy) -> Examples:
    return examples_of(table, rows_of(table, policy), RRHF, None)


def _by_hand(logp: list[float], lengths: list[int], scores: list[float]) -> float:
    p = [s / n for s, n in zip(logp, lengths, strict=True)]
    k = range(len(p))
    wrong = sum(max(0.0, p[i] - p[j]) for i in k for j in k if scores[i] < scores[j])
    return wrong - logp[int(np.argmax(scores))]


def test_each_row_is_filled_with_its_own_answers_whatever_the_order(ranked: Rankings, policy: Policy) -> None:
    examples = _examples(ranked, policy)
    assert tuple(a.name for a in examples.arguments) == ("policy_logps", "lengths", "target_scores", "mask")
    assert examples.columns["mask"].sum(dim=1).tolist() == list(SIZES)
    batch = torch.tensor([2, 1, 3])
    own = -torch.arange(1.0, 10.0, dtype=torch.float64)
    found = loss_on_batch(examples, RRHF, batch, own).tolist()
    lengths, data = rows_of(ranked, policy).answers.lengths, ranked.table.to_pylist()
    starts, at = np.cumsum([0, *SIZES]), 0
    for row, loss in zip(batch.tolist(), found, strict=True):
        mine = own[at : at + SIZES[row]].tolist()
        at += SIZES[row]
        expected = _by_hand(mine, lengths[starts[row] : starts[row + 1]].tolist(), data[row]["scores"])
        assert loss == pytest.approx(expected)


@pytest.mark.parametrize(
    "shape", [PackingConfig(4096, 32, True), PackingConfig(1, 32, True), PackingConfig(200, 32, False)]
)
def test_losses_do_not_depend_on_how_rankings_are_cut_into_micro_batches(
    shape: PackingConfig, ranked: Rankings, policy: Policy
) -> None:
    examples, scorer = _examples(ranked, policy), AnswerLogps(open_model(policy, torch.float32))
    table = logps(policy, ranked, _work(policy))
    found: dict[int, float] = {}
    for part in micro_batches(examples.rows, np.arange(4), shape):
        values = scorer(inputs_of(part, torch.device("cpu")))
        losses = loss_on_batch(examples, RRHF, torch.from_numpy(part.rows), values).tolist()
        found |= dict(zip(part.rows.tolist(), losses, strict=True))
    every = torch.tensor(table.table.column("logps").to_pylist(), dtype=torch.float64)
    expected = loss_on_batch(examples, RRHF, torch.arange(4), every).tolist()
    assert [found[i] for i in range(4)] == pytest.approx(expected, abs=1e-4)


def _work(policy: Policy) -> Workspace:
    return Workspace(policy.path.parent / "logps")


def test_references_are_joined_by_id_and_padded(
    ranked: Rankings, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def against(policy_logps: torch.Tensor, ref_logps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, policy_logps - ref_logps, 0.0).sum(dim=1)

    _let_be_the_loss(against, monkeypatch)
    loss = Chosen("losses/listwise", "against", {})
    ref = logps(policy, ranked, _work(policy))
    turned = Logps.of(ref.table.take(pa.array(range(len(ref) - 1, -1, -1))))
    found = examples_of(ranked, rows_of(ranked, policy), loss, turned).columns["ref_logps"]
    every = ref.table.column("logps").to_pylist()
    assert found.tolist() == [[*every[:3], 0], [*every[3:5], 0, 0], every[5:9], [*every[9:], 0]]


def _let_be_the_loss(function: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chosen, "function", property(lambda self: function))
    monkeypatch.setattr(Chosen, "companion", lambda self, name: None)


def test_the_best_answer_of_each_prompt_is_the_chosen_side_of_the_metrics(ranked: Rankings, policy: Policy) -> None:
    examples = _examples(ranked, policy)
    own = torch.arange(12.0, dtype=torch.float64)
    metrics = step_metrics(examples, StepLosses(np.arange(4), torch.ones(4), own))
    # Best are answers 0; 3 and 4, equal; 5; 9.
    assert metrics["logps/chosen"] == pytest.approx((0 + 3 + 4 + 5 + 9) / 5)
    assert metrics["logps/rejected"] == pytest.approx((1 + 2 + 6 + 7 + 8 + 10 + 11) / 7)
    assert metrics["train/loss"] == 1


def test_training_brings_the_answers_into_the_order_of_their_scores(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(rankings((4,) * 6), policy, tmp_path)

    def ordered(p: Policy) -> float:
        """Share of the pairs with different scores whose better answer has more log-probability per token."""
        rows = logps(p, data, Workspace(tmp_path / "l")).frame
        per_token = (rows["logps"] / rows["lengths"]).to_numpy().reshape(-1, 4)
        return float(np.mean([row[i] > row[j] for row in per_token for i in range(2) for j in range(i + 1, 4)]))

    work = Workspace(tmp_path)
    loss = Chosen("losses/listwise", "rrhf", {"rank_weight": 10.0, "average": "token"})
    trained = fit(policy, data, work, loss=loss, lr=3e-3, epochs=30, batch=3)
    curve = [metrics["train/loss"] for _, metrics in work.curves]
    assert curve[-1] < 0.3 * curve[0]
    assert ordered(policy) < 0.8
    assert ordered(trained) == 1


@pytest.mark.parametrize(
    ("scores", "told"),
    [([2.0, 2.0, 2.0], "no order for the loss 'rrhf' to learn"), ([1.0, float("nan"), 2.0], "not finite")],
)
def test_rankings_without_an_order_are_refused(scores: list[float], told: str, policy: Policy, tmp_path: Path) -> None:
    table = rankings((3, 3)).table
    field = table.schema.field("scores")
    same = Rankings.of(table.set_column(table.column_names.index("scores"), field, pa.array([scores] * 2, field.type)))
    with pytest.raises(DataError, match=told):
        _examples(tokenized(same, policy, tmp_path), policy)  # type: ignore[arg-type]


def test_labels_of_one_class_only_are_refused_where_the_loss_reads_them(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(policy_logps: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.where(label, -policy_logps, policy_logps)

    loss = Chosen("losses/pointwise", "told", {})
    _let_be_the_loss(told, monkeypatch)
    table = tokenized(labels([True, False, True]), policy, tmp_path / "both")
    assert examples_of(table, rows_of(table, policy), loss, None).columns["label"].tolist() == [True, False, True]
    for label, said in ((True, "desirable"), (False, "undesirable")):
        table = tokenized(labels([label] * 3), policy, tmp_path / said)
        with pytest.raises(DataError, match=f"all 3 labels are {said}: the loss 'told' tells two classes apart"):
            examples_of(table, rows_of(table, policy), loss, None)
