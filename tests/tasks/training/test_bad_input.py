"""Tables with which a loss cannot be filled: refused before a model is opened, or rows that are skipped and listed."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.contract import Chosen, DataError
from tasks.kinds import Labels, Policy, Preferences
from tasks.train import logps, mismatched_answers
from tasks.training.examples import examples_of
from tasks.training.rows import rows_of
from tests.flat import fit, tokenize
from tests.tasks.training.tables import KTO, NASH, labels, preferences, tokenized
from tests.tasks.training.test_targets import changed
from tests.workspace import Workspace

REBEL = Chosen("losses/pairwise", "rebel", {"eta": 1.0})
SIMPO = Chosen("losses/pairwise", "simpo", {"beta": 2.0, "gamma": 1.0})


def test_a_loss_that_needs_reward_margins_refuses_a_table_without(policy: Policy, tmp_path: Path) -> None:
    """`margin` counts as 0 where it is null; `reward_margin`, the same column, is refused there."""
    pairs = preferences(3).table
    place = pairs.column_names.index("margin")
    some = Preferences.of(pairs.set_column(place, "margin", pa.array([1.0, None, 2.0], pa.float64())))
    data = tokenized(some, policy, tmp_path)
    ref = logps(policy, data, Workspace(tmp_path))
    with pytest.raises(DataError, match=r"not finite on 1 of 3 rows, first row 1, .* no reward_margin \(how much"):
        examples_of(data, rows_of(data, policy), REBEL, ref)
    assert len(examples_of(data, rows_of(data, policy), SIMPO, None).rows) == 3


@pytest.mark.parametrize("label", [True, False])
def test_labels_of_one_class_are_refused_by_kto(label: bool, policy: Policy, tmp_path: Path) -> None:
    data = tokenized(labels([label] * 4), policy, tmp_path)
    assert isinstance(data, Labels)
    mixed = mismatched_answers(policy, data, Workspace(tmp_path))
    ref, of_mixed = (logps(policy, table, Workspace(tmp_path)) for table in (data, mixed))
    kind = "desirable" if label else "undesirable"
    with pytest.raises(DataError, match=f"all 4 labels are {kind}: the loss 'kto' tells two classes apart"):
        fit(policy, data, Workspace(tmp_path), ref, loss=KTO, lr=1e-3, mismatched=mixed, mismatched_logps=of_mixed)


def test_labelled_answers_that_are_empty_are_skipped_and_listed(policy: Policy, tmp_path: Path) -> None:
    table = labels([True, False, True, False]).table
    texts = ["", "good", "   ", "bad"]
    given = Labels.of(table.set_column(table.column_names.index("completion"), "completion", pa.array(texts)))
    work = Workspace(tmp_path)
    kept = tokenize(policy, given, work, max_skipped=0.5)
    assert kept.table.column("completion").to_pylist() == ["good", "bad"]
    listed = [json.loads(line) for line in (work.output / "skipped.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in listed] == ["empty completion"] * 2


def test_an_anchor_that_scored_other_tokens_or_other_answers_is_refused(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(preferences(4), policy, tmp_path)
    ref = logps(policy, data, Workspace(tmp_path))
    longer = changed(ref, lengths=[n + 1 for n in ref.table.column("lengths").to_pylist()])
    fewer = type(ref).of(ref.table.slice(0, 6))
    for anchor, message in (
        (longer, "8 answers have another number of tokens in the anchor's table"),
        (fewer, "2 of 8 answers have no anchor log-probability, first: prompt p3, completion w3"),
    ):
        with pytest.raises(DataError, match=message):
            examples_of(data, rows_of(data, policy), NASH, ref, anchor_logps=[ref, anchor])
