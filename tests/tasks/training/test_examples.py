"""Filling a loss by name: joins by id, missing values, kinds that do not fit."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.contract import Chosen, DataError
from tasks.kinds import Logps, Policy, Preferences, Table, WinRates
from tasks.losses.pairwise import dpo
from tasks.losses.pointwise import sppo
from tasks.train import logps
from tasks.training.examples import Examples, examples_of, loss_on_batch
from tasks.training.metrics import StepLosses, step_metrics
from tasks.training.rows import rows_of
from tests.losses import loss_of
from tests.tasks.training.tables import DPO, SFT, SPPO, demonstrations, preferences, tokenized, win_rates
from tests.workspace import Workspace


def _changed(table: Table, **columns: list[object]) -> Table:
    data = table.table
    for name, values in columns.items():
        place = data.column_names.index(name)
        data = data.set_column(place, data.schema.field(name), pa.array(values, data.schema.field(name).type))
    return type(table).of(data, table.metadata)


def _examples(table: Table, policy: Policy, loss: Chosen, ref: Logps | None) -> Examples:
    return examples_of(table, rows_of(table, policy), loss, ref)


def _shuffled(table: Logps) -> Logps:
    return Logps.of(table.table.take(pa.array(range(len(table) - 1, -1, -1))), {})


def test_reference_log_probabilities_are_joined_by_id_whatever_their_order(policy: Policy, tmp_path: Path) -> None:
    table = tokenized(preferences(6), policy, tmp_path)
    ref = logps(policy, table, Workspace(tmp_path))
    straight, turned = (_examples(table, policy, DPO, r) for r in (ref, _shuffled(ref)))
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        assert torch.equal(straight.columns[name], turned.columns[name])
    assert straight.columns["ref_chosen_logps"].tolist() == ref.table.column("logps").to_pylist()[0::2]


def test_ids_that_do_not_match_are_an_error_that_names_the_first(policy: Policy, tmp_path: Path) -> None:
    table = tokenized(preferences(6), policy, tmp_path)
    ref = logps(policy, table, Workspace(tmp_path))
    with pytest.raises(DataError, match=r"4 of 12 answers have no reference log-probability, first: prompt p4.*w4"):
        _examples(table, policy, DPO, Logps.of(ref.table.slice(0, 8)))


def test_a_reference_scored_on_other_tokens_is_an_error(policy: Policy, tmp_path: Path) -> None:
    table = tokenized(preferences(6), policy, tmp_path)
    ref = logps(policy, table, Workspace(tmp_path))
    longer = _changed(ref, lengths=[n + 1 for n in ref.table.column("lengths").to_pylist()])
    with pytest.raises(DataError, match="12 answers have another number of tokens"):
        _examples(table, policy, DPO, longer)


def test_a_null_p_is_refused_by_soft_labels_and_no_matter_to_hard_ones(policy: Policy, tmp_path: Path) -> None:
    table = tokenized(_changed(preferences(4), p=[0.5, None, 1.0, 0.0]), policy, tmp_path)
    ref = logps(policy, table, Workspace(tmp_path))
    assert len(_examples(table, policy, DPO, ref).rows) == 4
    with pytest.raises(DataError, match=r"not finite on 1 of 4 rows, first row 1, .* no p \(P\(chosen beats"):
        _examples(table, policy, Chosen("losses/pairwise", "dpo", {"labels": "soft"}), ref)


def test_a_null_weight_is_one(policy: Policy, tmp_path: Path) -> None:
    table = tokenized(_changed(demonstrations(3), weight=[2.0, None, 0.5]), policy, tmp_path)
    assert _examples(table, policy, SFT, None).weights.tolist() == [2.0, 1.0, 0.5]


def test_win_rates_are_padded_with_nan_to_the_widest_prompt(policy: Policy, tmp_path: Path) -> None:
    table = _changed(win_rates(10), prompt_win_rates=[[0.5, 0.25]] + [[0.1, 0.2, 0.3, 0.4, 0.5]] * 9)
    table = tokenized(table, policy, tmp_path)
    ref = logps(policy, table, Workspace(tmp_path))
    estimated = Chosen("losses/pointwise", "sppo", {"eta": 2.0, "log_z": "estimated"})
    column = _examples(table, policy, estimated, ref).columns["prompt_win_rates"]
    assert column.shape == (10, 5)
    assert column[0].isnan().tolist() == [False, False, True, True, True]


def test_tables_without_tokens_or_of_another_template_are_refused(policy: Policy) -> None:
    with pytest.raises(DataError, match="`tokenize` the table with that policy"):
        rows_of(preferences(4), policy)
    with pytest.raises(DataError, match="made with template other"):
        rows_of(Preferences.of(preferences(4).table, {"template": "other"}), policy)


def test_filling_gives_each_row_its_own_values(policy: Policy, tmp_path: Path) -> None:
    table = tokenized(win_rates(10), policy, tmp_path)
    assert isinstance(table, WinRates)
    ref = logps(policy, table, Workspace(tmp_path))
    examples = _examples(table, policy, SPPO, ref)
    batch = torch.tensor([7, 2])
    found = loss_on_batch(examples, SPPO, batch, torch.tensor([-3.0, -4.0], dtype=torch.float64))
    data = table.table.to_pylist()
    expected = [
        (own - ref.table.column("logps")[r].as_py() - 10 * (data[r]["win_rate"] - 0.5)) ** 2
        for r, own in ((7, -3.0), (2, -4.0))
    ]
    assert found.tolist() == pytest.approx(expected)


def test_implicit_rewards_are_log_ratios_times_the_scale_that_stands_beside_the_loss(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-ratios 1 and -1 of chosen and rejected; tau = 0.25 is a scale of 4."""
    text = """
        def mine(policy_chosen_logps, policy_rejected_logps, *, tau=0.25):
            return (policy_rejected_logps - policy_chosen_logps) / tau
        """
    table = tokenized(preferences(1), policy, tmp_path)
    ref = logps(policy, table, Workspace(tmp_path))
    outputs = torch.tensor(ref.table.column("logps").to_pylist(), dtype=torch.float64) + torch.tensor([1.0, -1.0])

    def metrics(loss: Chosen) -> dict[str, float]:
        examples = _examples(table, policy, loss, ref)
        return step_metrics(examples, StepLosses(np.arange(1), torch.ones(1), outputs))

    plain = metrics(loss_of(monkeypatch, "pairwise", "mine", text))
    assert [plain[f"rewards/{side}"] for side in ("chosen", "rejected", "margins")] == pytest.approx([1, -1, 2])
    beside = (
        text
        + """
        def reward_scale(*, tau):
            return 1 / tau
        """
    )
    scaled = metrics(loss_of(monkeypatch, "pairwise", "mine", beside))
    assert [scaled[f"rewards/{side}"] for side in ("chosen", "rejected", "margins")] == pytest.approx([4, -4, 8])
    halved = metrics(loss_of(monkeypatch, "pairwise", "mine", beside, tau=0.5))
    assert halved["rewards/margins"] == pytest.approx(4)
    assert (dpo.reward_scale(beta=0.3), sppo.reward_scale(eta=4.0)) == (0.3, 0.25)
