"""The enumerable world's optima: each fit is the real one; its result is read by the real `logps`."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.optimize import brentq
from scipy.special import logsumexp, wrightomega

from tasks.contract import Chosen
from tasks.kinds import Preferences, WinRates
from tasks.template import template_digest
from tests.enumerable import ANSWERS, PROMPTS, Matrix, N, World, distribution, everything, kl, normalised, row, world_in
from tests.flat import fit, logps
from tests.workspace import Workspace


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_in(tmp_path_factory.mktemp("world"))


SETTINGS = {"lr": 2e-3, "schedule": "cosine", "warmup": 0.02, "max_grad_norm": 1e3, "checkpoint_every": 10**6}


def test_there_are_forty_answers_and_the_reference_is_uneven(world: World) -> None:
    assert N == 40
    assert kl(world.log_ref, np.full((PROMPTS, N), -np.log(N))) > 0.1


def _dpo(world: World, folder: Path, beta: float, **settings: Any) -> Matrix:
    """The policy after DPO on all pairs, labelled σ(r_a − r_b)."""
    rows = [
        {"prompt_id": f"p{x}", "prompt": [], "chosen_id": f"c{a}", "rejected_id": f"c{b}", "chosen": "", "rejected": "",
         "prompt_tokens": [1, 3 + x], "chosen_tokens": list(ANSWERS[a]), "rejected_tokens": list(ANSWERS[b]),
         "p": float(1 / (1 + np.exp(world.rewards[x, b] - world.rewards[x, a])))}
        for x in range(PROMPTS) for a in range(N) for b in range(a)
    ]  # fmt: skip
    data = Preferences.of(pa.Table.from_pylist(rows), {"template": template_digest(world.ref)})
    ref_logps = logps(world.ref, everything(world.ref), Workspace(folder))
    soft = Chosen("losses/pairwise", "dpo", {"beta": beta, "labels": "soft"})
    chosen = {**SETTINGS, "lr": 3e-3, **settings}
    return distribution(fit(world.ref, data, Workspace(folder), ref_logps, loss=soft, batch=128, **chosen), folder)


@pytest.mark.slow
def test_dpo_with_soft_labels_reaches_the_reward_tilted_reference(world: World, tmp_path: Path) -> None:
    """π* ∝ π_ref·exp(r/β) for labels σ(r_a − r_b) on pairs with full support (arXiv 2305.18290, eq. 4)."""
    target = normalised(world.log_ref + world.rewards / 0.5)
    assert kl(world.log_ref, target) > 0.5
    assert kl(_dpo(world, tmp_path, 0.5, steps=2000), target) < 1e-4


@pytest.mark.slow
def test_dpo_of_a_full_rank_adapter_reaches_the_same_optimum(world: World, tmp_path: Path) -> None:
    """The head is frozen, so that only an optimum near the reference is within its reach: β is 2."""
    target = normalised(world.log_ref + world.rewards / 2)
    assert kl(world.log_ref, target) > 0.1
    adapter = Chosen("adapters", "lora", {"rank": 64, "alpha": 64.0})
    assert kl(_dpo(world, tmp_path, 2.0, steps=400, adapter=adapter), target) < 1e-4


def _sppo(world: World, folder: Path, eta: float, rates: Matrix, log_z: str, listed: Matrix) -> Matrix:
    """The policy after SPPO on all answers, weighted by the reference: the regression in expectation."""
    weights = np.exp(world.log_ref) * N
    rows = [
        {**row(x, y), "win_rate": rates[x, y], "opponents": N, "weight": weights[x, y],
         "prompt_win_rates": [float(listed[x, 0])]}
        for x in range(PROMPTS) for y in range(N)
    ]  # fmt: skip
    data = WinRates.of(pa.Table.from_pylist(rows), {"template": template_digest(world.ref)})
    ref_logps = logps(world.ref, data, Workspace(folder))
    loss = Chosen("losses/pointwise", "sppo", {"eta": eta, "log_z": log_z})
    work = Workspace(folder)
    trained = fit(world.ref, data, work, ref_logps, loss=loss, steps=800, batch=PROMPTS * N, **SETTINGS)
    return distribution(trained, folder)


def _win_rates(world: World) -> Matrix:
    """P(y ≻ π_ref) by Bradley-Terry, exactly; sharpened, so that targets are far from the reference."""
    differences = 3 * (world.rewards[:, :, None] - world.rewards[:, None, :])
    return np.einsum("xab,xb->xa", 1 / (1 + np.exp(-differences)), np.exp(world.log_ref))


@pytest.mark.slow
def test_sppo_with_the_exact_log_z_reaches_the_exponential_weights(world: World, tmp_path: Path) -> None:
    """π ∝ π_ref·exp(η·P) (arXiv 2405.00675, eq. 4.4). One listed win rate of log Z / η makes the estimate exact."""
    eta, rates = 8.0, _win_rates(world)
    log_z = logsumexp(world.log_ref + eta * rates, axis=1, keepdims=True)
    target = world.log_ref + eta * rates - log_z
    assert kl(world.log_ref, target) > 0.5
    found = _sppo(world, tmp_path, eta, rates, "estimated", log_z / eta)
    assert kl(found, target) < 1e-4


@pytest.mark.slow
def test_sppo_with_half_eta_reaches_its_own_optimum_and_not_the_exponential_weights(
    world: World, tmp_path: Path
) -> None:
    """ρ = π/π_ref solves log ρ + c·ρ = η(P − ½), c such that E ρ = 1: ρ = ω(log c + t)/c, the Lambert W."""
    eta, rates = 8.0, _win_rates(world)
    t, ref = eta * (rates - 0.5), np.exp(world.log_ref)

    def ratios(x: int, c: float) -> Matrix:
        return np.real(wrightomega(np.log(c) + t[x])) / c

    levels = [brentq(lambda c, x=x: ref[x] @ ratios(x, c) - 1, 1e-12, 1e3) for x in range(PROMPTS)]
    own = np.log(np.stack([ref[x] * ratios(x, c) for x, c in enumerate(levels)]))
    weights = normalised(world.log_ref + eta * rates)
    found = _sppo(world, tmp_path, eta, rates, "half", rates)
    assert kl(world.log_ref, own) > 0.5
    assert kl(found, own) < 1e-4 < 1e-3 < kl(found, weights)
