"""Rankings through the real training code: filling by name, padding, metrics, learning; tables of one class only."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.contract import Chosen, DataError
from tasks.kinds import Logps, Policy, Rankings
from tasks.training.examples import Examples, examples_of, loss_on_batch
from tasks.training.metrics import StepLosses, step_metrics
from tasks.training.rows import rows_of
from tests.flat import logps
from tests.tasks.training.tables import RRHF, labels, rankings, tokenized
from tests.workspace import Workspace

SIZES = (3, 2, 4, 3)


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
