# ruff: noqa: E501
"""A small tree of tasks with every feature that a signature can have, and a way to compile a text against it."""

import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph
from tests.flows.codebases import write_files

TREE = {
    "kinds.py": """
        from typing import TypeVar
        class Artifact: ...
        class Table(Artifact): ...
        class Prompts(Table): ...
        class Demonstrations(Prompts): ...
        class Completions(Table): ...
        class Scores(Completions): ...
        class WinRates(Completions): ...
        class WinProbs(Table): ...
        class Preferences(Table): ...
        class Labels(Table): ...
        class Rankings(Table): ...
        class Logps(Table): ...
        class Report(Table): ...
        class Oracle(Artifact): ...
        class Scorer(Oracle): ...
        class Model(Artifact): ...
        class Policy(Model): ...
        class RewardModel(Model, Scorer): ...
        AnyTable = TypeVar("AnyTable", bound=Table)
        """,
    "load.py": """
        def load_prompts(*, source: Annotated[Chosen, Choice("sources", other="path")], split: str = "train") -> Prompts:
            '''Prompts of one split.

            Args:
                source: a world, or a file.
                split: name of the split.
            '''
        def load_demonstrations(*, source: Annotated[Chosen, Choice("sources", other="path")]) -> Demonstrations:
            '''Gold answers.'''
        def read_preferences(*, source: Annotated[Chosen, Choice("sources", other="path")]) -> Preferences:
            '''Pairs.'''
        def read_policy(*, source: Annotated[Chosen, Choice("sources", other="path")]) -> Policy:
            '''A checkpoint.'''
        def init_policy(data: Demonstrations) -> Policy:
            '''Random weights.'''
        def load_oracle(*, oracle: Annotated[Chosen, Choice("oracles")]) -> Oracle:
            '''Who decides.'''
        def helper() -> str: ...
        """,
    "work.py": """
        from tasks.declarations import Evaluation, Metric
        def sample(policy: Policy, prompts: Prompts, work: Workspace, *, k: Annotated[int, Bounds(min=1)] = 4,
                   temperature: Annotated[float, Bounds(min=0)] = 1.0, stop: list[str] = [], max_tokens: int | None = None,
                   seed: Seed = 0, stream: int = 0, shard: Annotated[int, Bounds(min=1)] = 64,
                   engine: Annotated[Chosen, Choice("engines")] = "auto",
                   devices: Execution[Annotated[int, Bounds(min=1)]] = 1) -> Completions:
            '''K answers to each prompt.

            Args:
                k: answers per prompt.
                seed: noise.
            '''
        def compare(completions: Completions, oracle: Oracle, work: Workspace, others: Completions | None = None) -> WinProbs: ...
        def score(completions: Completions, oracle: Scorer) -> Scores: ...
        def win_rates(win_probs: WinProbs, completions: Completions, *, keep: Literal["all", "best_and_worst"] = "all") -> WinRates: ...
        def pairs(completions: Completions, win_probs: WinProbs) -> Preferences: ...
        def take_batch(table: AnyTable, *, index: Annotated[int, Bounds(min=1)], size: int, wrap: bool = False) -> AnyTable: ...
        def concat(tables: list[AnyTable]) -> AnyTable: ...
        def mixture(policies: list[Policy], *, shares: list[float] | None = None) -> Report: ...
        def logps(policy: Policy, data: Table, *, micro_batch: Execution[int] = 8) -> Logps: ...
        def fit(policy: Policy, data: Table, ref_logps: Logps | None = None, *,
                loss: Annotated[Chosen, Choice("losses")], lr: Annotated[float, Bounds(above=0)], epochs: int = 1,
                seed: Seed = 0, micro_batch: Execution[int] = 8) -> Policy: ...
        def train_reward(policy: Policy, data: Table, *, loss: Annotated[Chosen, Choice("losses/reward")],
                         lr: Annotated[float, Bounds(above=0)]) -> RewardModel: ...
        def measure(win_probs: WinProbs, completions: Completions, others: Completions, scores: Scores | None = None,
                    logps: Logps | None = None, *, allow_seen: bool = False) -> Report:
            '''A report.'''
        def agreement(pairs: Preferences, logps: Logps, *, allow_seen: bool = False) -> Report: ...
        measure_metrics = {"eval/win_rate": Metric(role="win_rate")}
        def measure_evaluation(step):
            answers = step.inputs["completions"][0]
            return Evaluation("win rate", [(answers, answers.inputs["policy"])], allow_seen=step.params["allow_seen"])
        def agreement_evaluation(step):
            measured = [(step.inputs["pairs"][0], step.inputs["logps"][0].inputs["policy"])]
            return Evaluation("agreement", measured, allow_seen=step.params["allow_seen"])
        """,
    "composites.py": """
        from __future__ import annotations

        def train(add: Add, policy: Policy, data: Table, ref: Policy | None = None, *,
                  loss: Annotated[ChoiceSpec, Choice("losses")], lr: Annotated[float, Bounds(above=0)],
                  epochs: Annotated[int, Bounds(min=1)] = 1, seed: Seed = 0) -> Policy:
            '''Train.

            Args:
                lr: peak learning rate.
            '''
            ref_logps = add("logps", policy=ref, data=data) if ref is not None else None
            return add("fit", policy=policy, data=data, ref_logps=ref_logps, loss=loss, lr=lr, epochs=epochs, seed=seed)

        def evaluate(add: Add, policy: Policy, baseline: Policy, prompts: Prompts, oracle: Oracle, *,
                     k: Annotated[int, Bounds(min=1)] = 4, allow_seen: bool = False, seed: Seed = 0) -> Report:
            ours = add("sample", policy=policy, prompts=prompts, k=k, seed=seed, stream=1)
            theirs = add("sample", name="baseline_sample", policy=baseline, prompts=prompts, k=k, seed=seed, stream=2)
            probs = add("compare", completions=ours, oracle=oracle, others=theirs)
            scores = add("score", completions=ours, oracle=oracle) if oracle.is_a("Scorer") else None
            return add("measure", win_probs=probs, completions=ours, others=theirs, scores=scores, allow_seen=allow_seen)

        def load_policy(add: Add, *, source: Annotated[ChoiceSpec, Choice("sources", other="path")]) -> Policy:
            return source.world.base_policy(add, source) if source.world else add("read_policy", source=source)
        """,
    "sources/toy.py": """
        from __future__ import annotations
        from tasks.contract import WorldSpec

        def toy(*, tones: list[float] = [0.5, 0.3, 0.2], seed: Seed = 0) -> World:
            '''A toy.'''

        def base_policy(add: Add, source: ChoiceSpec) -> Policy:
            data = add("load_demonstrations", source=source)
            return add("train", name="pretrain", policy=add("init_policy", data=data), data=data, loss="sft", lr=0.003)

        splits = dict.fromkeys(["train", "rm", "policy", "gate", "heldout"], 4)
        world = WorldSpec(base_policy, splits, "rm", "toy_gold", ("toy_gold", "toy_judge"), ("lr",))
        """,
    "sources/path.py": "def path(*, path: str, column: str | None = None) -> Source: ...",
    "oracles/toy_gold.py": "def toy_gold() -> Scorer: ...",
    "oracles/toy_judge.py": "def toy_judge(*, sharpness: Annotated[float, Bounds(above=0)] = 1.0) -> Oracle: ...",
    "engines/transformers.py": "def transformers(policy: Policy, *, dtype: Literal['float32', 'bfloat16'] = 'float32', "
    "workers: Execution[int] = 1) -> Engine: ...",
    "engines/vllm.py": "def vllm(policy: Policy, *, tensor_parallel: Execution[int] = 1) -> Engine: ...",
    "losses/pairwise/dpo.py": """
        def dpo(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, *,
                beta: Annotated[float, Bounds(above=0)] = 0.1) -> Tensor:
            '''DPO.

            Args:
                beta: temperature.

            Paper: lr 1e-6, beta 0.1, batch 64.
            '''
        """,
    "losses/pairwise/simpo.py": "def simpo(policy_chosen_logps, policy_rejected_logps, chosen_lengths) -> Tensor: ...",
    "losses/pointwise/sppo.py": """
        def sppo(policy_logps, ref_logps, win_rate, *, eta: Annotated[float, Bounds(above=0)] = 1000.0) -> Tensor:
            '''SPPO.

            Paper: lr 5e-7, eta 1000,
            three rounds.
            '''
        """,
    "losses/pointwise/sft.py": "def sft(policy_logps) -> Tensor: ...",
    "losses/pointwise/kto.py": "def kto(policy_logps, ref_logps, label) -> Tensor: ...",
    "losses/listwise/rank.py": "def rank(policy_logps, target_scores, mask) -> Tensor: ...",
    "losses/reward/bradley_terry.py": "def bradley_terry(chosen_scores, rejected_scores) -> Tensor: ...",
}

Compile = Callable[..., Graph]
FILE = Path(__file__).parents[3] / "pipelines.yaml"
"""The project's own."""


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("tree") / "tasks", TREE)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Graph]:
    """Compile a pipeline of the project's own file with parameters, as a command gives them; each once."""
    parses = tmp_path_factory.mktemp("shipped") / "python.json"
    return cache(lambda name, **given: compile_pipeline(FILE, name, given, cache=parses))


@pytest.fixture
def compiled(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compile:
    """Compile the pipeline `p` (or another) of a text that holds pipelines."""
    monkeypatch.chdir(tmp_path)

    def compile_(text: str, name: str = "p", overrides: dict[str, Any] | None = None, **options: Any) -> Graph:
        file = tmp_path / "pipelines.yaml"
        file.write_text("pipelines:\n" + textwrap.indent(textwrap.dedent(text).strip("\n"), "  ") + "\n")
        return compile_pipeline(file, name, overrides or {}, tasks_root=tree, **options)

    return compile_
