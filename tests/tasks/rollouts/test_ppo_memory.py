"""What PPO does to need less memory changes no result."""

from pathlib import Path

import pytest

from tasks.kinds import Policy, RewardModel
from tasks.rollouts.memory import checkpointing_wanted
from tasks.training.memory import ModelShape, TrainingSetup
from tests.configs import CONFIGS
from tests.tasks.rollouts.small import files_of, plain_curves, run
from tests.workspace import Workspace


def test_activations_computed_again_change_no_bit(
    policy: Policy, value: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.training import gradient_checkpointing

    layers: list[object] = []
    real = gradient_checkpointing.checkpoint
    monkeypatch.setattr(
        gradient_checkpointing, "checkpoint", lambda f, *x, **o: (layers.append(f), real(f, *x, **o))[1]
    )
    works, made = [], []
    for setting in ("off", "on"):
        works.append(Workspace(tmp_path / setting))
        made.append(run(policy, value, works[-1], iterations=2, gradient_checkpointing=setting))
        assert bool(layers) == (setting == "on")
    assert files_of(made[0].path) == files_of(made[1].path)
    assert plain_curves(works[0]) == plain_curves(works[1])


def test_auto_decides_by_what_all_of_ppo_needs() -> None:
    """Two networks of 0.5B with AdamW in float32 need 2 · 16 · 0.49e9 bytes and once 12 GiB of activations: 29e9."""
    shape = ModelShape.of(CONFIGS["0.5B"])
    assert shape
    learning = [(shape, TrainingSetup(8192, half=True, logits=1 << 28))] * 2
    assert not checkpointing_wanted("auto", learning, {}, 40e9)
    assert checkpointing_wanted("auto", learning, {"engine": 15e9}, 40e9)
    assert checkpointing_wanted("auto", learning, {}, 20e9)
    assert [checkpointing_wanted(setting, learning, {}, 20e9) for setting in ("on", "off")] == [True, False]
    assert not checkpointing_wanted("auto", [], {}, 1.0)
