"""Wirings that measure: what may stand on samples of a trained policy, and composites in files of their own."""

from pathlib import Path

import pytest

from flows.wiring.catalogue import Catalogue
from flows.wiring.graph import compile_pipeline
from tasks.contract import SpecError

TRAINED = """
pipelines:
  p:
    steps:
      base: {task: load_policy, source: toy}
      gold: {task: load_oracle, oracle: toy_gold}
      questions: {task: load_prompts, source: toy, split: policy}
      heldout: {task: load_prompts, source: toy, split: heldout}
      people: {task: load_preferences, source: toy}
      reward: {task: train_reward, policy: base, data: people, lr: 0.1}
      policy: {task: rloo, policy: base, ref: base, prompts: questions, oracle: reward, lr: 0.1, iterations: 1}
      report: {task: accuracy_on_samples, policy: policy, prompts: PROMPTS, oracle: reward, gold: gold}
"""


def _compile(folder: Path, text: str) -> None:
    (folder / "pipelines.yaml").write_text(text)
    compile_pipeline(folder / "pipelines.yaml", "p", cache=folder / "python.json")


def test_the_samples_of_a_policy_measure_the_reward_model_that_trained_it(tmp_path: Path) -> None:
    """The pairs that trained the reward model are upstream of the policy, and yet not what is measured on."""
    _compile(tmp_path, TRAINED.replace("PROMPTS", "heldout"))


def test_pairs_that_trained_the_reward_model_do_not_measure_it_in_any_form(tmp_path: Path) -> None:
    kept, _, _ = TRAINED.partition("      report:")
    some = "      some: {task: take_batch, table: people, index: 1, size: 9}\n"
    for more, pairs in (("", "people"), (some, "some")):
        with pytest.raises(SpecError, match="on which this measures, also trained what is measured"):
            _compile(tmp_path, f"{kept}{more}      report: {{task: reward_accuracy, pairs: {pairs}, oracle: reward}}\n")


def test_a_function_whose_first_argument_is_add_is_a_composite_in_any_file() -> None:
    catalogue = Catalogue()
    assert {"accuracy_on_samples", "mt_bench"} <= catalogue.composites.keys()
    assert "add" not in catalogue.composites["mt_bench"].ports
