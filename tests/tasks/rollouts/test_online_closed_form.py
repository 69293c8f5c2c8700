"""Where self-play ends on the world of letters, read exactly: the fixed points of games of preferences."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import expit

from tasks.contract import Chosen
from tasks.kinds import Policy, Prompts
from tests.enumerable import Matrix, kl, normalised
from tests.flat import nash_md, online_dpo
from tests.tasks.rollouts.game import best_response_point, letters_game, partly_cyclic_log_odds
from tests.tasks.rollouts.letters import letters_distribution, letters_oracle, letters_policy, letters_prompts
from tests.tasks.rollouts.small import CLIPPED, FIXED, TRANSFORMERS
from tests.workspace import Workspace

COMMON: dict[str, Any] = {
    "prompts_per_iteration": 1, "max_tokens": 3, "engine": TRANSFORMERS, "checkpoint_every": 10**6,
}  # fmt: skip
ONE = Prompts.of(letters_prompts().table.slice(0, 1))
"""A world of one prompt and 40 answers."""


class Start(NamedTuple):
    ref: Policy
    log_ref: Matrix
    """`(1, answers)`."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("letters")
    ref = letters_policy(folder / "ref")
    return Start(ref, letters_distribution(ref, folder)[:1])


def nash(start: Start, log_odds: Matrix, folder: Path, **options: Any) -> Matrix:
    """The distribution after 150 iterations of `nash_md`, of 48 answers, each against 128 of the opponent."""
    trained = nash_md(
        start.ref, start.ref, ONE, letters_game(log_odds), Workspace(folder / "run"), None,
        **COMMON, kl_controller=FIXED, objective=CLIPPED, k=48, k_opponent=128, iterations=150, epochs=4, lr=1.5e-3,
        **options,
    )  # fmt: skip
    return letters_distribution(trained, folder)[:1]


@pytest.mark.slow
def test_nash_md_reaches_its_own_fixed_point(start: Start, tmp_path: Path) -> None:
    """π ∝ π_ref·exp(P(y ≻ π^(1−m)·π_ref^m)/τ), which is no Nash policy; measured: 0.004 nats."""
    mixture = 0.25
    log_odds = partly_cyclic_log_odds((4, start.log_ref.shape[1]))
    target = best_response_point(start.log_ref, expit(log_odds[:1]), 0.15, mixture)
    assert kl(start.log_ref, target) > 0.5 < kl(target, start.log_ref)
    found = nash(start, log_odds, tmp_path, mixture=mixture, kl_coef=0.15)
    assert kl(found, target) < 0.01


@pytest.mark.slow
def test_the_log_odds_game_reaches_its_equilibrium(start: Start, tmp_path: Path) -> None:
    """Self-play, π ∝ π_ref·exp(E R/η); measured: 0.009 nats."""
    log_odds = partly_cyclic_log_odds((4, start.log_ref.shape[1]))
    payoff = np.clip(log_odds[:1], -np.log(999), np.log(999))
    target = best_response_point(start.log_ref, payoff, 0.8)
    assert kl(start.log_ref, target) > 0.5 < kl(target, start.log_ref)
    found = nash(start, log_odds, tmp_path, mixture=0.0, kl_coef=0.8, payoff="log_odds")
    assert kl(found, target) < 0.02


@pytest.mark.slow
def test_online_dpo_with_sampled_labels_reaches_dpos_optimum(start: Start, tmp_path: Path) -> None:
    """π_ref·exp(r/β), normalised; measured: 0.019 nats."""
    rewards, beta = np.random.default_rng(5).normal(size=(4, start.log_ref.shape[1])), 0.7
    target = normalised(start.log_ref + rewards[:1] / beta)
    assert kl(start.log_ref, target) > 0.5 < kl(target, start.log_ref)
    trained = online_dpo(
        start.ref, start.ref, ONE, letters_oracle(rewards), Workspace(tmp_path / "run"), None, **COMMON,
        loss=Chosen("losses/pairwise", "dpo", {"beta": beta}), k=64, iterations=120, epochs=2, lr=2e-3,
    )  # fmt: skip
    assert kl(letters_distribution(trained, tmp_path)[:1], target) < 0.05
