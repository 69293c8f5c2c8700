"""A small PPO: a tiny policy, a dozen prompts, a rule that likes short answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from tasks.contract import Chosen
from tasks.kinds import Policy, Prompts, RewardModel, Scorer
from tasks.training.reward import open_reward_model, save_reward_model
from tests.flat import grpo, ppo
from tests.tasks.training.tables import message
from tests.workspace import Workspace

TRANSFORMERS = Chosen("engines", "transformers", {})
CLIPPED = Chosen("losses/rl", "clipped", {})
FIXED = Chosen("kl_controllers", "fixed", {})
ADAPTIVE = Chosen("kl_controllers", "adaptive", {"target": 0.5, "horizon": 100.0})
TIMING = {"tokens_per_second", *(f"time/{part}" for part in ("push", "draw", "score", "read", "update"))}
SETTINGS: dict[str, Any] = {
    "iterations": 4, "prompts_per_iteration": 4, "k": 3, "lr": 1e-3, "kl_coef": 0.05, "epochs": 2,
    "schedule": "constant", "objective": CLIPPED, "kl_controller": FIXED, "engine": TRANSFORMERS,
}  # fmt: skip


def prompts(n: int = 6) -> Prompts:
    rows = [{"prompt_id": f"p{i}", "prompt": message(f"where does the swan live {i} ?")} for i in range(n)]
    return Prompts.of(pa.Table.from_pylist(rows, Prompts.SCHEMA))


def _brevity(asked: Sequence[Any], told: Sequence[str], truths: Sequence[str | None]) -> list[float]:
    return [-len(text) / 10 for text in told]


SHORT = Scorer.scoring(_brevity)
"""Minus a tenth of the letters."""


def value_from(policy: Policy, folder: Path, *, zero: bool = False) -> RewardModel:
    """A reward model of the policy's weights, with a random head or one of zeros."""
    folder.mkdir(parents=True)
    model = open_reward_model(policy, torch.float32)
    if zero:
        torch.nn.init.zeros_(model.score.weight)
    save_reward_model(model, policy, folder)
    return RewardModel(folder)


def run(policy: Policy, value: RewardModel | None, work: Workspace, **options: Any) -> Policy:
    """`ppo` with small settings; `oracle`, `ref`, `prompts` and `demonstrations` may be given among the options."""
    given = {**SETTINGS, **options}
    ref, oracle = given.pop("ref", policy), given.pop("oracle", SHORT)
    asked, told = given.pop("prompts", prompts()), given.pop("demonstrations", None)
    return ppo(policy, ref, asked, oracle, work, value, told, **given)


def grouped(policy: Policy, work: Workspace, **options: Any) -> Policy:
    """`grpo` with small settings, which needs no value network; one pass per iteration."""
    given = {**SETTINGS, "epochs": 1, **options}
    return grpo(policy, prompts(), given.pop("oracle", SHORT), work, given.pop("ref", policy), **given)


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, by relative path."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def plain_curves(work: Workspace) -> list[tuple[int, dict[str, float]]]:
    """Curves without what a clock decides."""
    return [(step, {k: v for k, v in row.items() if k not in TIMING}) for step, row in work.curves]
