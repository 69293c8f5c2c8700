"""PPO against a fixed price of a nat has one optimum, π* ∝ π_ref·exp(r/β): the real `ppo` must come near it."""

from pathlib import Path

import numpy as np
import pytest

from tasks.contract import Chosen
from tests.enumerable import kl, normalised
from tests.flat import ppo
from tests.tasks.rollouts.letters import (
    letters_distribution,
    letters_oracle,
    letters_policy,
    letters_prompts,
    letters_value,
)
from tests.tasks.rollouts.small import FIXED, TRANSFORMERS
from tests.workspace import Workspace

BETA = 0.5


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["clipped", "kl_penalty"])
def test_ppo_reaches_the_reward_tilted_reference(objective: str, tmp_path: Path) -> None:
    """Rewards from N(0, 1); every answer that the optimum gives a tenth of its mass has 1.5% of the reference's, so
    that 64 draws find it. Token KL reward, GAE 0.95, whitening, 2 epochs × 2 minibatches, lr 1e-3 → 0."""
    ref = letters_policy(tmp_path / "ref")
    log_ref = letters_distribution(ref, tmp_path)
    rewards = np.random.default_rng(5).normal(size=log_ref.shape)
    target = normalised(log_ref + rewards / BETA)
    assert kl(log_ref, target) > 0.5 < kl(target, log_ref)
    trained = ppo(
        ref, ref, letters_prompts(), letters_oracle(rewards), Workspace(tmp_path / "ppo"),
        letters_value(ref, tmp_path / "value"), iterations=300, prompts_per_iteration=4, k=64, lr=1e-3, kl_coef=BETA,
        objective=Chosen("losses/rl", objective, {}), kl_controller=FIXED, engine=TRANSFORMERS, epochs=2,
        minibatches=2, missing_eos_penalty=0.0, max_tokens=3, checkpoint_every=10**6,
    )  # fmt: skip
    assert kl(letters_distribution(trained, tmp_path), target) < 0.05
