"""Where online methods end on the world of letters, read exactly: DPO's optimum, and the fixed points of games."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import expit

from tasks.contract import Chosen
from tasks.kinds import Policy
from tests.enumerable import Matrix, kl, normalised
from tests.flat import nash_md, online_dpo
from tests.tasks.rollouts.game import best_response_point, letters_game, partly_cyclic_log_odds
from tests.tasks.rollouts.letters import letters_distribution, letters_oracle, letters_policy, letters_prompts
from tests.tasks.rollouts.small import CLIPPED, FIXED, TRANSFORMERS
from tests.workspace import Workspace

COMMON: dict[str, Any] = {
    "prompts_per_iteration": 4, "max_tokens": 3, "engine": TRANSFORMERS, "checkpoint_every": 10**6,
}  # fmt: skip


class Start(NamedTuple):
    ref: Policy
    log_ref: Matrix


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("letters")
    ref = letters_policy(folder / "ref")
    return Start(ref, letters_distribution(ref, folder))


def nash(start: Start, log_odds: Matrix, folder: Path, **options: Any) -> Matrix:
    """The distribution after `nash_md`: 32 answers, each against 32 of the opponent, to each prompt."""
    trained = nash_md(
        start.ref, start.ref, letters_prompts(), letters_game(log_odds), Workspace(folder / "run"), None,
        **COMMON, kl_controller=FIXED, objective=CLIPPED, k=32, k_opponent=32, lr=2e-3, **options,
    )  # fmt: skip
    return letters_distribution(trained, folder)


@pytest.mark.slow
@pytest.mark.parametrize("mixture", [0.25, 0.0])
def test_nash_md_reaches_its_own_fixed_point(mixture: float, start: Start, tmp_path: Path) -> None:
    """π ∝ π_ref·exp(P(y ≻ π^(1−m)·π_ref^m)/τ), which for m > 0 is not the Nash policy of any game."""
    log_odds = partly_cyclic_log_odds(start.log_ref.shape)
    target = best_response_point(start.log_ref, expit(log_odds), 0.15, mixture)
    assert kl(start.log_ref, target) > 0.5 < kl(target, start.log_ref)
    found = nash(start, log_odds, tmp_path, mixture=mixture, kl_coef=0.15, iterations=200)
    assert kl(found, target) < 0.01


@pytest.mark.slow
def test_the_log_odds_game_reaches_its_equilibrium(start: Start, tmp_path: Path) -> None:
    log_odds = partly_cyclic_log_odds(start.log_ref.shape)
    payoff = np.clip(log_odds, -np.log(999), np.log(999))
    target = best_response_point(start.log_ref, payoff, 1.0)
    assert kl(start.log_ref, target) > 0.5 < kl(target, start.log_ref)
    found = nash(start, log_odds, tmp_path, mixture=0.0, kl_coef=1.0, iterations=200, payoff="log_odds")
    assert kl(found, target) < 0.02


@pytest.mark.slow
def test_online_dpo_with_sampled_labels_reaches_dpos_optimum(start: Start, tmp_path: Path) -> None:
    rewards, beta = np.random.default_rng(5).normal(size=start.log_ref.shape), 0.7
    target = normalised(start.log_ref + rewards / beta)
    assert kl(start.log_ref, target) > 0.5 < kl(target, start.log_ref)
    trained = online_dpo(
        start.ref, start.ref, letters_prompts(), letters_oracle(rewards), Workspace(tmp_path / "run"), None,
        **COMMON, loss=Chosen("losses/pairwise", "dpo", {"beta": beta}), k=32, lr=2e-3, iterations=300,
    )  # fmt: skip
    assert kl(letters_distribution(trained, tmp_path), target) < 0.05
