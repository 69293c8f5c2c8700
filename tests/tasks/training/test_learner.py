"""What a wiring shows of adapters is refused before any work."""

from pathlib import Path

import pytest

from flows.wiring.graph import compile_pipeline
from tasks.contract import Chosen, SpecError
from tasks.training.learner import check_adapter, rank_of
from tests.tasks.test_declared_costs import Seen

WIRING = """
pipelines:
  two:
    params: {first: {lora: {rank: 8}}, second: {lora: {rank: 8}}, save: float32}
    steps:
      base:   {task: load_policy, source: toy}
      data:   {task: load_demonstrations, source: toy, split: sft}
      one:    {task: train, policy: base, data: data, loss: sft, lr: 1.0e-3, adapter: $first, save_dtype: $save}
      two:    {task: train, policy: one, data: data, loss: sft, lr: 1.0e-3, adapter: $second}
  whole:
    extends: two
    params: {second: {lora: {rank: 4}}}
    steps:
      merged: {task: merge, policies: [one]}
      two:    {policy: merged}
  none:
    extends: two
    steps:
      two:    {adapter: null}
  merging:
    extends: whole
    steps:
      merged: {policies: [base_alone]}
      base_alone: {task: train, policy: base, data: data, loss: sft, lr: 1.0e-3}
  rewards:
    extends: two
    steps:
      pairs:  {task: load_preferences, source: toy}
      two:    {task: train_reward, policy: one, data: pairs, loss: bradley_terry, lr: 1.0e-3, adapter: $second}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pipelines.yaml"
    path.write_text(WIRING)
    return path


@pytest.mark.parametrize("name", ["two", "whole", "rewards"])
def test_the_same_adapter_goes_on_and_a_merged_one_may_get_another(file: Path, name: str) -> None:
    kinds = {node.kind for node in compile_pipeline(file, name).nodes.values()}
    assert "Policy" in kinds


@pytest.mark.parametrize(("name", "given", "match"), [
    ("two", {"second": "{lora: {rank: 16}}"}, r"two: `policy` is an adapter, \{lora: \{rank: 8, .*rank: 16"),
    ("two", {"second": "{lora: {rank: 8, targets: [q_proj]}}", "first": "{lora: {rank: 8, targets: [v_proj]}}"},
     r"targets: \[v_proj\]\}\}, and `adapter` is .*targets: \[q_proj\]"),
    ("none", {}, r"`adapter` is not given\. A training goes on with the adapter that it starts from"),
    ("rewards", {"second": "{lora: {rank: 16}}"}, "set `adapter` to that one, or `merge` it first"),
    ("two", {"save": "bfloat16"}, "save_dtype: bfloat16 is for whole models"),
    ("merging", {}, r"merged: `policies` has one model, which is whole"),
    ("two", {"first": "{lora: {rank: 0}}"}, r"rank = 0; it must be at least 1"),
    ("two", {"first": "lorra"}, r"did you mean 'lora'"),
])  # fmt: skip
def test_what_can_only_fail_is_refused_at_its_place(file: Path, name: str, given: dict[str, str], match: str) -> None:
    with pytest.raises(SpecError, match=match) as caught:
        compile_pipeline(file, name, given)
    assert str(file) in str(caught.value) or "command line" in str(caught.value)


def test_an_adapter_of_a_users_own_is_left_to_the_training() -> None:
    """Only its own code says what its parameters mean."""
    known = Chosen("adapters", "lora", {"rank": 4, "alpha": 8.0, "targets": ["q_proj"]})
    own = Seen(policy=Seen(adapter=known), adapter=Chosen("adapters", "mine", {"size": 2}))
    check_adapter(own)
    assert rank_of(own) == 0
    assert rank_of(own.first("policy")) == 4


MERGES = """
pipelines:
  several:
    params: {weights: [1, 1, 1], how: linear}
    steps:
      base:  {task: load_policy, source: toy}
      data:  {task: load_demonstrations, source: toy, split: sft}
      one:   {task: train, policy: base, data: data, loss: sft, lr: 1.0e-3}
      two:   {task: train, policy: base, data: data, loss: sft, lr: 2.0e-3}
      soup:  {task: merge, policies: [one, two, base], weights: $weights, how: $how}
"""


@pytest.mark.parametrize(("given", "match"), [
    ({"weights": "[1, 2]"}, r"soup: `weights` has 2 numbers for 3 models"),
    ({"weights": "[0, 0, 0]"}, r"sum above 0"),
    ({"how": "slerp"}, r"soup: `how: slerp` takes two models, and `policies` has 3"),
    ({"how": "spherical"}, r"one of \[linear, slerp\]|linear.*slerp"),
])  # fmt: skip
def test_a_merge_that_can_only_fail_is_refused_at_its_place(tmp_path: Path, given: dict[str, str], match: str) -> None:
    path = tmp_path / "pipelines.yaml"
    path.write_text(MERGES)
    assert compile_pipeline(path, "several").nodes["soup"].kind == "Policy"
    with pytest.raises(SpecError, match=match):
        compile_pipeline(path, "several", given)
