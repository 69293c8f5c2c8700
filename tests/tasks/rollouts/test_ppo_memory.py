"""What PPO does to need less memory changes no result."""

from pathlib import Path

import pytest

from tasks.contract import Chosen, SpecError
from tasks.kinds import Policy, RewardModel
from tasks.rollouts.memory import Learner, checkpointing_wanted
from tasks.rollouts.wiring import base_of, check_models, value_rank
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
    learning = [Learner(shape, TrainingSetup(8192, half=True, logits=1 << 28))] * 2
    assert not checkpointing_wanted("auto", learning, {}, 40e9)
    assert checkpointing_wanted("auto", learning, {"engine": 15e9}, 40e9)
    assert checkpointing_wanted("auto", learning, {}, 20e9)
    assert [checkpointing_wanted(setting, learning, {}, 20e9) for setting in ("on", "off")] == [True, False]
    assert not checkpointing_wanted("auto", [], {}, 1.0)


class Step:
    """A step of a wiring, by its task, the rank of its adapter and what feeds it."""

    def __init__(self, task: str, rank: int = 0, **fed: "Step") -> None:
        self.task, self.origin, self.params, self._fed = task, object(), {"adapter": None}, fed
        lora = Chosen("adapters", "lora", {"rank": rank, "alpha": 32.0, "targets": ("all-linear",)})
        self.choices = {"adapter": lora} if rank else {}

    def first(self, port: str) -> "Step | None":
        return self._fed.get(port)


def test_a_wiring_shows_which_value_networks_share_the_base() -> None:
    """Three rounds, whose value networks come from each other, and at first from a reward model of rank 8."""
    base, other = Step("load_policy"), Step("load_policy")
    reward = Step("fit_reward", 8, policy=base)
    first = Step("ppo", 16, policy=base, value=reward)
    second = Step("ppo", 16, policy=first, value=Step("value_of", policy=first))
    third = Step("ppo", 16, policy=second)
    assert [value_rank(step) for step in (first, second, third)] == [8, 8, 8]  # type: ignore[arg-type]
    assert value_rank(Step("ppo", 16, policy=base, value=Step("fit_reward", policy=base))) == 0  # type: ignore[arg-type]
    kept = Step("checkpoint_at", policy=third)
    assert base_of(kept).origin is base.origin  # type: ignore[arg-type]
    for step in (first, second, third):
        check_models(step)  # type: ignore[arg-type]
    for step, text in (
        (Step("ppo", policy=base, value=reward), "the whole policy is to learn"),
        (Step("ppo", 16, policy=other, value=reward), "adapter of another base than the policy's"),
        (Step("ppo", 4, policy=first, value=reward), "merge"),
    ):
        with pytest.raises(SpecError, match=text):
            check_models(step)  # type: ignore[arg-type]
