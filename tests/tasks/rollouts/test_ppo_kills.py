"""Kills inside scoring and behind the last iteration; number types where a training is resumed, or a policy kept."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.contract import DataError
from tasks.engines.transformers import TransformersEngine
from tasks.kinds import Policy, RewardModel, Scorer
from tasks.rollouts import loop
from tasks.training.model import open_model
from tests.tasks.rollouts.small import files_of, plain_curves, prompts, run, value_from
from tests.workspace import Killed, Mortal, Workspace


class Counted:
    """An oracle that likes short answers, and dies where it has answered so many questions."""

    def __init__(self, mortal_after: int | None = None) -> None:
        self.answered: list[tuple[str, str]] = []
        self.mortal_after = mortal_after

    def __call__(self, asked: list[Any], told: list[str], truths: list[Any]) -> list[float | None]:
        if self.mortal_after is not None and len(self.answered) >= self.mortal_after:
            raise Killed
        self.answered += [(json.dumps(p), t) for p, t in zip(asked, told, strict=True)]
        return [-len(t) / 10 for t in told]


MANY: dict[str, Any] = {"prompts_per_iteration": 8, "k": 20, "iterations": 2, "prompts": prompts(8)}


def test_equal_answers_to_a_prompt_are_one_question(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    oracle, work = Counted(), Workspace(tmp_path)
    run(policy, value, work, **{**MANY, "iterations": 1, "max_tokens": 1}, oracle=Scorer.scoring(oracle))
    assert len(set(oracle.answered)) == len(oracle.answered) < 160
    assert work.totals["samples"] == 160
    assert work.totals["queries"] == len(oracle.answered)


def test_a_kill_inside_scoring_loses_one_shard_of_questions(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    whole, straight = Counted(), Workspace(tmp_path / "straight")
    expected = run(policy, value, straight, **MANY, oracle=Scorer.scoring(whole))
    first, second = Counted(65), Counted()
    with pytest.raises(Killed):
        run(policy, value, Workspace(tmp_path / "killed"), **MANY, oracle=Scorer.scoring(first))
    work = Workspace(tmp_path / "killed")
    found = run(policy, value, work, **MANY, oracle=Scorer.scoring(second))
    assert len(first.answered) == 128
    assert first.answered + second.answered == whole.answered
    assert files_of(found.path) == files_of(expected.path)
    assert work.totals == straight.totals


def test_an_attempt_that_draws_otherwise_gets_no_score_of_another_answer(
    policy: Policy, value: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines need not repeat a draw to the last token; the second attempt's answers are the first one's reversed."""
    first, second = Counted(1), Counted()
    with pytest.raises(Killed):
        run(policy, value, Workspace(tmp_path), **MANY, oracle=Scorer.scoring(first))
    real = TransformersEngine.generate
    monkeypatch.setattr(TransformersEngine, "generate", lambda self, requests, *rest: real(self, requests, *rest)[::-1])
    with pytest.raises(DataError, match="sampler and trainer differ"):
        run(policy, value, Workspace(tmp_path), **MANY, oracle=Scorer.scoring(second))
    assert len(second.answered) > 100


def test_a_kill_behind_the_last_iteration_draws_nothing_again(
    policy: Policy, value: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for keep in (True, False):
        options: dict[str, Any] = {"iterations": 3, "checkpoints": [2], "keep_optimizer": keep}
        expected = run(policy, value, Workspace(tmp_path / f"straight-{keep}"), **options)
        with monkeypatch.context() as patched:
            patched.setattr(loop, "_write", _dies)
            with pytest.raises(Killed):
                run(policy, value, Workspace(tmp_path / f"killed-{keep}"), **options)
        with monkeypatch.context() as patched:
            patched.setattr(TransformersEngine, "generate", _dies)
            found = run(policy, value, Workspace(tmp_path / f"killed-{keep}"), **options)
        assert files_of(found.path) == files_of(expected.path)


def _dies(*_: Any) -> None:
    raise Killed


def test_bfloat16_bodies_train_and_resume_to_the_same_bytes(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    """The weights stay in float32, and the sampler's float32 is near enough to be the same policy."""
    options: dict[str, Any] = {"dtype": "bfloat16", "iterations": 5, "checkpoint_every": 2}
    straight = Workspace(tmp_path / "straight")
    expected = run(policy, value, straight, **options)
    with pytest.raises(Killed):
        run(policy, value, Mortal(tmp_path / "killed", 3), **options)
    work = Workspace(tmp_path / "killed")
    assert files_of(run(policy, value, work, **options).path) == files_of(expected.path)
    assert plain_curves(work) == plain_curves(straight)[2:]
    differences = [row["sampler/logp_difference"] for _, row in straight.curves]
    assert 1e-4 < min(differences) < max(differences) < 0.05
    assert {t.dtype for t in load_file(expected.path / "model.safetensors").values()} == {torch.float32}


def test_a_base_stored_in_bfloat16_trains_as_its_numbers_do_and_is_kept_without_a_copy(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = [_stored(policy, tmp_path / name, name) for name in ("bfloat16", "float32")]
    value = value_from(stored[1], tmp_path / "value")
    real = copy.deepcopy

    def checked(thing: Any, *rest: Any) -> Any:
        assert not isinstance(thing, torch.nn.Module)
        return real(thing, *rest)

    monkeypatch.setattr(copy, "deepcopy", checked)
    made = [run(p, value, Workspace(p.path / "run"), iterations=4, checkpoints=[2, 4]) for p in stored]
    names = ("model.safetensors", "checkpoints/2/model.safetensors", "checkpoints/4/model.safetensors")
    for name in names:
        one, other = ((p.path / name).read_bytes() for p in made)
        assert one == other, name
    assert {t.dtype for t in load_file(made[0].path / names[1]).values()} == {torch.float32}
    assert json.loads((made[0].path / "checkpoints/2/config.json").read_text())["dtype"] == "float32"


def _stored(policy: Policy, folder: Path, dtype: str) -> Policy:
    """The policy's weights rounded to bfloat16, in files of `dtype`."""
    shutil.copytree(policy.path, folder)
    model = open_model(policy, torch.float32).to(torch.bfloat16)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return Policy(folder)
