"""Methods whose baseline is the other answers to a prompt."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contract import SpecError
from tasks.kinds import Policy
from tests.flat import grpo
from tests.tasks.rollouts.small import CLIPPED, FIXED, SHORT, TRANSFORMERS, files_of, plain_curves, prompts
from tests.workspace import Killed, Mortal, Workspace

SETTINGS: dict[str, Any] = {
    "iterations": 4, "prompts_per_iteration": 4, "k": 3, "lr": 1e-3, "kl_coef": 0.05, "schedule": "constant",
    "objective": CLIPPED, "kl_controller": FIXED, "engine": TRANSFORMERS,
}  # fmt: skip


def _run(policy: Policy, work: Workspace, **options: Any) -> Policy:
    given = {**SETTINGS, **options}
    return grpo(policy, prompts(), SHORT, work, given.pop("ref", policy), **given)


def test_answers_come_to_be_what_the_oracle_likes(policy: Policy, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    made = _run(policy, work, iterations=12, lr=3e-3, k=8, kl_coef=0.01)
    scores = [row["objective/scores"] for _, row in work.curves]
    assert np.mean(scores[-3:]) > np.mean(scores[:3]) + 0.3
    assert not (made.path / "value").exists()


def test_an_interrupted_training_ends_in_the_same_bytes(policy: Policy, tmp_path: Path) -> None:
    straight = Workspace(tmp_path / "straight")
    expected = _run(policy, straight, checkpoint_every=2)
    with pytest.raises(Killed):
        _run(policy, Mortal(tmp_path / "killed", 3), checkpoint_every=2)
    work = Workspace(tmp_path / "killed")
    assert files_of(_run(policy, work, checkpoint_every=2).path) == files_of(expected.path)
    assert plain_curves(work)[-2:] == plain_curves(straight)[-2:]


def test_without_a_price_there_need_be_no_reference(policy: Policy, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    _run(policy, work, ref=None, kl_coef=0.0, iterations=1)
    assert "objective/kl" not in work.curves[0][1]
    with pytest.raises(SpecError, match="feed `ref`"):
        _run(policy, work, ref=None)
