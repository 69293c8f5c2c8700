"""The target answer of a pair: found by its prompt, read behind the pair's prompt, and counted as neither side."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.contract import DataError
from tasks.kinds import Demonstrations, Policy, Table
from tasks.training.examples import examples_of, loss_on_batch
from tasks.training.metrics import StepLosses, chosen_drift, step_metrics
from tasks.training.rows import Rows, rows_of
from tasks.training.targets import with_targets
from tests.tasks.training.loss_inputs import inputs_for
from tests.tasks.training.tables import SLIC, XPO, preferences, targets, tokenized

PAIRS = preferences(3)


@pytest.fixture
def pairs(policy: Policy, tmp_path: Path) -> Rows:
    return rows_of(tokenized(PAIRS, policy, tmp_path), policy)


@pytest.fixture
def aims(policy: Policy, tmp_path: Path) -> Table:
    return tokenized(targets(PAIRS), policy, tmp_path)


def changed(table: Table, **columns: list[object]) -> Any:
    data = table.table
    for name, values in columns.items():
        place = data.column_names.index(name)
        data = data.set_column(place, data.schema.field(name), pa.array(values, data.schema.field(name).type))
    return type(table).of(data, table.metadata)


def test_each_row_gets_the_answer_to_its_own_prompt_whatever_the_order(
    pairs: Rows, aims: Table, policy: Policy
) -> None:
    """The table of targets is in the reverse order."""
    rows = with_targets(pairs, aims, policy)
    assert rows.answer_ids == ["w0", "l0", "t0", "w1", "l1", "t1", "w2", "l2", "t2"]
    assert rows.is_target.tolist() == [False, False, True] * 3
    tokens = aims.table.column("completion_tokens").to_pylist()[::-1]
    assert [rows.answers.at(a).tolist() for a in (2, 5, 8)] == tokens
    assert [rows.answers.at(a).tolist() for a in (0, 1)] == [pairs.answers.at(a).tolist() for a in (0, 1)]


def test_several_targets_of_a_prompt_are_refused_with_their_number(pairs: Rows, aims: Table, policy: Policy) -> None:
    twice = Demonstrations.of(pa.concat_tables([aims.table, aims.table.slice(1)]), aims.metadata)
    with pytest.raises(DataError, match=r"2 of 3 prompts have more than one target answer \(p1, p0\)"):
        with_targets(pairs, twice, policy)


def test_prompts_without_a_target_are_refused_and_listed(pairs: Rows, aims: Table, policy: Policy) -> None:
    with pytest.raises(DataError, match=r"2 of 3 prompts of the pairs have no target answer \(p0, p1\)"):
        with_targets(pairs, Demonstrations.of(aims.table.slice(0, 1), aims.metadata), policy)


def test_a_target_of_other_prompt_tokens_is_refused(pairs: Rows, aims: Table, policy: Policy) -> None:
    prompts = aims.table.column("prompt_tokens").to_pylist()
    other = changed(aims, prompt_tokens=[prompts[0], [*prompts[1][:-1], 7], prompts[2]])
    with pytest.raises(DataError, match=r"1 targets do not continue the tokens of their pair's prompt \(p1\)"):
        with_targets(pairs, other, policy)


def test_a_target_that_begins_elsewhere_in_the_same_tokens_is_read_behind_the_pairs_prompt(
    pairs: Rows, aims: Table, policy: Policy
) -> None:
    """Templates let an answer begin at other places: here two tokens of the prompt are the answer's."""
    prompts, answers = (aims.table.column(f"{name}_tokens").to_pylist() for name in ("prompt", "completion"))
    moved = changed(
        aims, prompt_tokens=[p[:-2] for p in prompts],
        completion_tokens=[[*p[-2:], *a] for p, a in zip(prompts, answers, strict=True)],
    )  # fmt: skip
    one, other = with_targets(pairs, aims, policy), with_targets(pairs, moved, policy)
    assert one.answers.values.tolist() == other.answers.values.tolist()


def test_without_a_table_the_chosen_answer_is_the_target_and_no_answer_is_read_besides(
    policy: Policy, tmp_path: Path
) -> None:
    """S_w = −2, S_l = −4: max(0, 3 − 2) + 0.5·2 = 2."""
    inputs = inputs_for(SLIC, policy, tmp_path)._replace(targets=None)
    examples = inputs.examples(policy, SLIC)
    assert len(examples.rows.answer_ids) == 16
    batch, outputs = torch.arange(8), torch.tensor([-2.0, -4.0], dtype=torch.float64).repeat(8)
    assert loss_on_batch(examples, SLIC, batch, outputs).tolist() == [2.0] * 8


def test_metrics_count_targets_as_neither_chosen_nor_rejected(policy: Policy, tmp_path: Path) -> None:
    inputs = inputs_for(XPO, policy, tmp_path)
    rows = rows_of(inputs.data, policy)
    assert inputs.targets is not None
    aimed = examples_of(inputs.data, with_targets(rows, inputs.targets, policy), XPO, inputs.ref)
    outputs = torch.arange(24, dtype=torch.float64) / -3.0
    outcome = StepLosses(np.arange(8), torch.zeros(8), outputs)
    found = step_metrics(aimed, outcome)
    assert found["logps/chosen"] == pytest.approx(float(outputs[0::3].mean()))
    assert found["logps/rejected"] == pytest.approx(float(outputs[1::3].mean()))
    assert aimed.ref_logps is not None
    chosen, rejected = (0.5 * (outputs - aimed.ref_logps)[i::3] for i in (0, 1))
    assert found["rewards/margins"] == pytest.approx(float((chosen - rejected).mean()))
    assert found["rewards/accuracies"] == pytest.approx(float((chosen > rejected).double().mean()))
    lengths = torch.from_numpy(aimed.rows.answers.lengths)[0::3]
    assert chosen_drift(aimed, outcome) == pytest.approx(float((2 * chosen / lengths).mean()))
