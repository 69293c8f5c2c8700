"""What each loss of pairs or rankings reaches with the real `fit`, against the optimum of its own objective.

Pairs of the enumerable world have full support and stand for expectations: an order that is drawn by P is two rows with
the weights P and 1 − P. Every start is at least half a nat away.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import expit, logit

from tasks.contract import Chosen
from tasks.kinds import Table
from tests.enumerable import Matrix, World, kl, normalised, small_world_in
from tests.enumerable_training import (
    bradley_terry,
    distribution_of,
    drawn_pairs,
    evenly,
    lengths,
    linear,
    log_table,
    pairs,
    products,
    rankings,
    separable_optimum,
    tilted_per_token,
    trained,
    win_rates,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return small_world_in(tmp_path_factory.mktemp("world"))


def rewards(w: World) -> Matrix:
    return w.rewards


def soft(w: World) -> Table:
    """Every pair once, with the probability of its order: r is Bradley-Terry's."""
    p = bradley_terry(rewards(w))
    return pairs(w, evenly(p), p, w.rewards[:, :, None] - w.rewards[:, None, :])


def drawn(w: World) -> Table:
    """Every pair, its order drawn by Bradley-Terry."""
    p = bradley_terry(rewards(w))
    return drawn_pairs(w, np.ones_like(p) - np.eye(p.shape[1]), p)


def sharp(w: World) -> Any:
    return bradley_terry(6 * w.rewards)


def from_mu(w: World) -> Table:
    """Two draws of μ = π_ref, their order drawn by P."""
    return drawn_pairs(w, products(w.log_ref), sharp(w))


def rates(w: World) -> Matrix:
    return win_rates(sharp(w), w.log_ref)


def tilted(w: World, tilt: Matrix) -> Matrix:
    return normalised(w.log_ref + tilt)


def utilities(w: World) -> Matrix:
    return expit(4 * w.rewards)


def flipped(w: World) -> Table:
    """Orders drawn by Bradley-Terry, of which one in ten is turned round."""
    p = 0.9 * bradley_terry(w.rewards) + 0.1 * (1 - bradley_terry(w.rewards))
    return drawn_pairs(w, np.ones_like(p) - np.eye(p.shape[1]), p)


def anchors_of(w: World) -> list[Matrix]:
    """Two further policies, which need no weights: only their log-probabilities count."""
    noise = np.random.default_rng(5).normal(size=(2, *w.log_ref.shape))
    return [normalised(w.log_ref + 1.5 * one) for one in noise]


class Case(NamedTuple):
    loss: str
    parameters: dict[str, Any]
    data: Callable[[World], Table]
    optimum: str
    target: Callable[[World], Matrix]
    folder: str = "losses/pairwise"
    anchors: int = 0
    """How many log-probabilities of `anchors_of` the fit reads."""
    steps: int = 200
    lr: float = 3e-3


REWARD = "π_ref·exp(r/β)"
CASES = [
    Case("dpo", {"beta": 0.5, "labels": "soft"}, soft, REWARD, lambda w: tilted(w, w.rewards / 0.5)),
    Case("dpo", {"beta": 0.5}, drawn, REWARD, lambda w: tilted(w, w.rewards / 0.5)),
    Case("dpo", {"beta": 0.8, "norm": "length"}, drawn, "π_ref·exp(n·(r/β + c))",
         lambda w: tilted_per_token(w.log_ref, w, w.rewards / 0.8)),
    Case("robust_dpo", {"beta": 0.5, "label_smoothing": 0.1}, flipped, REWARD, lambda w: tilted(w, w.rewards / 0.5)),
    Case("length_dpo", {"beta": 0.5, "alpha": 0.15}, drawn, "π_ref·exp((r + α·n)/β)",
         lambda w: tilted(w, (w.rewards + 0.15 * lengths(w)) / 0.5)),
    Case("dpo_reference_free", {"beta": 0.5}, drawn, "exp(r/β)", lambda w: normalised(w.rewards / 0.5)),
    Case("cpo", {"beta": 0.5, "alpha": 0.0}, drawn, "exp(r/β)", lambda w: normalised(w.rewards / 0.5)),
    Case("simpo", {"beta": 0.7, "gamma": 0.0}, drawn, "exp(n·(r/β + c))",
         lambda w: tilted_per_token(0 * w.log_ref, w, w.rewards / 0.7)),
    Case("gpo", {"beta": 0.5, "curve": "logistic"}, drawn, REWARD, lambda w: tilted(w, w.rewards / 0.5)),
    Case("gpo", {"beta": 0.25, "curve": "exponential"}, drawn, "π_ref·exp(r/(2β))",
         lambda w: tilted(w, w.rewards / 0.5)),
    Case("gpo", {"beta": 0.5, "curve": "savage"}, drawn, REWARD, lambda w: tilted(w, w.rewards / 0.5)),
    Case("gpo", {"beta": 0.4, "curve": "squared"}, from_mu, "π_ref·exp(2·P(y ≻ μ)/β)",
         lambda w: tilted(w, 2 * rates(w) / 0.4)),
    Case("ipo", {"tau": 0.2, "norm": "sum"}, from_mu, "π_ref·exp(P(y ≻ μ)/τ)", lambda w: tilted(w, rates(w) / 0.2)),
    Case("ipo", {"tau": 0.3, "norm": "length"}, from_mu, "π_ref·exp(n·(P(y ≻ μ)/τ + c))",
         lambda w: tilted_per_token(w.log_ref, w, rates(w) / 0.3)),
    Case("exo", {"beta": 0.8, "label_smoothing": 0.02}, lambda w: drawn_pairs(
        w, np.ones_like(sharp(w)) - np.eye(len(w.answers)), linear(utilities(w))),
        "π_ref·exp(u·logit(1 − ε)/β)", lambda w: tilted(w, utilities(w) * logit(0.98) / 0.8)),
    Case("rebel", {"eta": 2.0}, soft, "π_ref·exp(η·r)", lambda w: tilted(w, 2 * w.rewards)),
    Case("sppo_single", {"eta": 8.0}, lambda w: pairs(w, products(w.log_ref), sharp(w)), "log ρ + λρ = η(P − ½)",
         lambda w: separable_optimum(w.log_ref, lambda a: a - 8 * (rates(w) - 0.5))),
    Case("bco", {"beta": 0.5}, from_mu, "β(σ(βa) − P) + λρ = 0",
         lambda w: separable_optimum(w.log_ref, lambda a: 0.5 * (expit(0.5 * a) - rates(w)))),
    Case("nca", {"beta": 0.3}, from_mu, "β(½σ(βa) − P·σ(−βa)) + λρ = 0", lambda w: separable_optimum(
        w.log_ref, lambda a: 0.3 * (0.5 * expit(0.3 * a) - rates(w) * expit(-0.3 * a)))),
    Case("nash", {"eta": 0.2, "r": 1 / 3}, from_mu, "π₀^r·π_t^(1 − r)·exp(P(y ≻ π_t)/η)", lambda w: normalised(
        (anchors_of(w)[0] + 2 * w.log_ref) / 3 + rates(w) / 0.2), anchors=1),
    Case("nash", {"eta": 0.2, "r": 2 / 3}, from_mu, "(π₁·π₂)^(r/2)·π₀^(1 − r)·exp(P(y ≻ μ)/η)", lambda w: normalised(
        (sum(anchors_of(w)) + w.log_ref) / 3 + rates(w) / 0.2), anchors=2),
    Case("pl_dpo", {"beta": 0.5}, lambda w: rankings(w, w.rewards), REWARD, lambda w: tilted(w, w.rewards / 0.5),
         folder="losses/listwise"),
]  # fmt: skip


def name_of(case: Case) -> str:
    return "-".join([case.loss, *(f"{v:.3g}" if isinstance(v, float) else v for v in case.parameters.values())])


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_loss_reaches_its_own_optimum(
    case: Case, world: World, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    target = case.target(world)
    began, start = time.perf_counter(), kl(world.log_ref, target)
    loss = Chosen(case.folder, case.loss, case.parameters)
    anchors = [log_table(world, values) for values in anchors_of(world)[: case.anchors]]
    policy = trained(
        world, case.data(world), loss, tmp_path, anchor_logps=anchors or None, steps=case.steps, lr=case.lr
    )
    reached, seconds = kl(distribution_of(policy, world, tmp_path), target), time.perf_counter() - began
    record_property("closed form", (name_of(case), case.optimum, start, reached, case.steps, seconds))
    assert start >= 0.5
    assert reached <= 1e-4
