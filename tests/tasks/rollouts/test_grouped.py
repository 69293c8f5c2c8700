"""Methods whose baseline is the other answers to a prompt."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contract import SpecError
from tasks.kinds import Policy, Scorer
from tests.flat import grpo, rloo
from tests.models import tiny_policy
from tests.tasks.rollouts.small import CLIPPED, FIXED, SHORT, TRANSFORMERS, files_of, plain_curves, prompts
from tests.workspace import Killed, Mortal, Workspace

SETTINGS: dict[str, Any] = {
    "iterations": 4, "prompts_per_iteration": 4, "k": 3, "lr": 1e-3, "kl_coef": 0.05, "schedule": "constant",
    "objective": CLIPPED, "kl_controller": FIXED, "engine": TRANSFORMERS,
}  # fmt: skip


COARSE = Scorer.scoring(lambda asked, told, truths: [float(len(text) > 25) for text in told])
"""0 or 1, so that the answers to a prompt often have one score."""


def _run(policy: Policy, work: Workspace, **options: Any) -> Policy:
    given = {**SETTINGS, **options}
    task, oracle, asked = given.pop("task", grpo), given.pop("oracle", SHORT), given.pop("prompts", prompts())
    return task(policy, asked, oracle, work, given.pop("ref", policy), **given)


def test_answers_come_to_be_what_the_oracle_likes(policy: Policy, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    made = _run(policy, work, task=rloo, iterations=12, lr=3e-3, k=8, kl_coef=0.01)
    scores = [row["objective/scores"] for _, row in work.curves]
    assert np.mean(scores[-3:]) > np.mean(scores[:3]) + 0.3
    assert not (made.path / "value").exists()


REDRAWN: dict[str, Any] = {
    "oracle": COARSE, "prompts": prompts(12), "k": 2, "draw_again": 2, "epochs": 2, "checkpoint_every": 2,
    "kl_form": "token_k3",
}  # fmt: skip


def test_kills_and_rounds_end_in_the_same_bytes_where_prompts_are_drawn_again(policy: Policy, tmp_path: Path) -> None:
    """Straight, killed behind the third of four iterations, and as two rounds of two."""
    straight = Workspace(tmp_path / "straight")
    expected = files_of(_run(policy, straight, **REDRAWN).path)
    discarded = [row["objective/discarded"] for _, row in straight.curves]
    assert straight.totals["samples"] == 4 * 4 * 2 + sum(discarded) > 4 * 4 * 2
    with pytest.raises(Killed):
        _run(policy, Mortal(tmp_path / "killed", 3), **REDRAWN)
    work = Workspace(tmp_path / "killed")
    assert files_of(_run(policy, work, **REDRAWN).path) == expected
    assert plain_curves(work)[-2:] == plain_curves(straight)[-2:]
    assert work.totals == straight.totals
    half = _run(policy, Workspace(tmp_path / "half"), **{**REDRAWN, "iterations": 2})
    rest = _run(half, Workspace(tmp_path / "rest"), **{**REDRAWN, "iterations": 2}, ref=policy)
    assert files_of(rest.path) == expected


def test_answers_that_were_cut_train_nothing_on_request(tmp_path: Path) -> None:
    """A policy whose answers do not end within two tokens."""
    endless, work = tiny_policy(tmp_path / "policy", ending=-50.0), Workspace(tmp_path / "work")
    _run(endless, work, iterations=1, max_tokens=2, mask_cut=True)
    assert work.curves[0][1]["val/finished"] == 0
    assert work.curves[0][1]["grad_norm"] == 0


def test_without_a_price_there_need_be_no_reference(policy: Policy, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    _run(policy, work, ref=None, kl_coef=0.0, iterations=1)
    assert "objective/kl" not in work.curves[0][1]
    with pytest.raises(SpecError, match="feed the port `ref`"):
        _run(policy, work, ref=None)
