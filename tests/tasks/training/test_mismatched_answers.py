"""Answers to other prompts than theirs, from which KTO's reference point is estimated."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tasks.contract import DataError
from tasks.kinds import Labels, Policy
from tasks.train import logps, mismatched_answers
from tasks.training.mismatched import mismatched_rows, partners
from tasks.training.rows import rows_of
from tests.tasks.training.loss_inputs import FLAGS
from tests.tasks.training.tables import labels, tokenized
from tests.workspace import Workspace


@pytest.mark.parametrize("counts", [(1, 1), (1, 1, 1, 1, 1), (5, 5), (2, 3, 4), (1, 2, 2, 1, 6)])
def test_every_row_gets_an_answer_to_another_prompt_and_every_answer_is_used_once(counts: tuple[int, ...]) -> None:
    prompts = [f"p{i}" for i, count in enumerate(counts) for _ in range(count)]
    shuffled = np.random.default_rng(1).permutation(prompts).tolist()
    for seed in range(20):
        partner = partners(shuffled, seed)
        assert all(shuffled[i] != shuffled[j] for i, j in enumerate(partner))
        assert sorted(partner) == list(range(len(prompts)))


def test_where_one_prompt_has_most_rows_answers_to_the_others_are_used_again() -> None:
    prompts = ["p0"] * 6 + ["p1", "p2"]
    partner = partners(prompts, 0)
    assert all(prompts[i] != prompts[j] for i, j in enumerate(partner))
    assert Counter(prompts[j] for j in partner)["p0"] == 2, "only two rows have another prompt"


def test_the_pairing_is_fixed_by_its_seed() -> None:
    prompts = [f"p{i % 20}" for i in range(60)]
    assert partners(prompts, 3).tolist() == partners(prompts, 3).tolist()
    assert partners(prompts, 3).tolist() != partners(prompts, 4).tolist()


def test_rows_of_one_prompt_alone_are_refused() -> None:
    with pytest.raises(DataError, match=r"all 3 rows have one prompt, p: .* at least two prompts"):
        partners(["p", "p", "p"], 0)


def test_the_table_has_the_prompts_of_the_rows_and_the_tokens_of_their_partners(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(labels(FLAGS), policy, tmp_path)
    assert isinstance(data, Labels)
    work = Workspace(tmp_path)
    mixed = mismatched_answers(policy, data, work, seed=2)
    partner = partners(data.table.column("prompt_id").to_pylist(), 2).tolist()
    for name in ("prompt_id", "prompt_tokens", "label"):
        assert mixed.table.column(name).to_pylist() == data.table.column(name).to_pylist()
    for name in ("completion_id", "completion", "completion_tokens"):
        own = data.table.column(name).to_pylist()
        assert mixed.table.column(name).to_pylist() == [own[j] for j in partner]
    assert work.totals["rows_truncated"] == 0


def test_an_answer_that_makes_a_row_too_long_loses_its_end(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(labels(FLAGS), policy, tmp_path)
    assert isinstance(data, Labels)
    prompts = data.table.column("prompt_tokens").to_pylist()
    longest = max(map(len, prompts)) + 2
    work = Workspace(tmp_path)
    mixed = mismatched_answers(policy, data, work, max_length=longest).table.column("completion_tokens").to_pylist()
    whole = mismatched_answers(policy, data, Workspace(tmp_path)).table.column("completion_tokens").to_pylist()
    assert mixed == [answer[: longest - len(prompt)] for answer, prompt in zip(whole, prompts, strict=True)]
    assert work.totals["rows_truncated"] == sum(a != b for a, b in zip(whole, mixed, strict=True)) > 0


def test_mismatched_answers_of_another_table_are_refused(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(labels(FLAGS), policy, tmp_path)
    assert isinstance(data, Labels)
    mixed = mismatched_answers(policy, data, Workspace(tmp_path))
    scored = logps(policy, mixed, Workspace(tmp_path))
    turned = Labels.of(mixed.table.take(list(range(7, -1, -1))), mixed.metadata)
    assert len(mismatched_rows(rows_of(data, policy), rows_of(mixed, policy), scored).ref_logps) == 8
    with pytest.raises(DataError, match="not to the prompts of the rows"):
        mismatched_rows(rows_of(data, policy), rows_of(turned, policy), scored)
