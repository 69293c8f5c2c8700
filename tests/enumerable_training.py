"""Tables that state a whole objective on the enumerable world, and trainings on them by the real `fit`."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.optimize import brentq

from tasks.contract import Chosen
from tasks.kinds import Labels, Logps, Policy, Preferences, Rankings, Table
from tasks.template import template_digest
from tests.enumerable import Matrix, World, distribution, everything, normalised
from tests.flat import fit, logps
from tests.workspace import Workspace

Games = npt.NDArray[np.float64]
"""`(prompts, answers, answers)`: a number for each ordered pair of answers to each prompt."""


def bradley_terry(rewards: Matrix) -> Games:
    """P(row beats column) of every two answers, σ(r_a − r_b)."""
    return np.asarray(1 / (1 + np.exp(rewards[:, None, :] - rewards[:, :, None])))


def linear(utilities: Matrix) -> Games:
    """P(row beats column) = ½ + (u_a − u_b)/2, utilities in [0, 1]."""
    return np.asarray((1 + utilities[:, :, None] - utilities[:, None, :]) / 2)


def products(log_mu: Matrix) -> Games:
    """The probability with which two draws of μ give an ordered pair."""
    mu = np.exp(log_mu)
    return np.asarray(mu[:, :, None] * mu[:, None, :])


def evenly(games: Games) -> Games:
    """Every unordered pair once, with equal weight."""
    return np.asarray(np.broadcast_to(np.tril(np.ones(games.shape[1:]), -1), games.shape))


def win_rates(p: Games, log_mu: Matrix) -> Matrix:
    """P(y ≻ μ) of every answer."""
    return np.einsum("xab,xb->xa", p, np.exp(log_mu))


def log_table(world: World, values: Matrix) -> Logps:
    """Log-probabilities of all answers that no model stands behind, as a port of `fit` takes them."""
    at = [(f"p{x}", f"c{y}") for x in range(len(values)) for y in range(len(world.answers))]
    counts = pa.array(np.tile(lengths(world)[0], len(values)).astype(np.int32))
    columns = {"prompt_id": [x for x, _ in at], "completion_id": [y for _, y in at], "logps": values.ravel()}
    return Logps.of(pa.table({**columns, "lengths": counts}), {"template": template_digest(world.ref)})


def lengths(world: World) -> Matrix:
    """Tokens of every answer, `(1, answers)`."""
    return np.array([[float(len(answer)) for answer in world.answers]])


def pairs(world: World, weights: Games, p: Games, margins: Games | None = None) -> Preferences:
    """All pairs (chosen, rejected) that have a weight; weights are scaled to the mean 1."""
    margins = np.zeros_like(p) if margins is None else margins
    at = [tuple(index) for index in np.argwhere(weights > 0).tolist()]
    scale = len(at) / sum(weights[index] for index in at)
    rows = [
        {"prompt_id": f"p{x}", "prompt": [], "chosen_id": f"c{a}", "rejected_id": f"c{b}", "chosen": "", "rejected": "",
         "prompt_tokens": world.asked[x], "chosen_tokens": list(world.answers[a]),
         "rejected_tokens": list(world.answers[b]), "p": float(p[x, a, b]), "margin": float(margins[x, a, b]),
         "weight": float(weights[x, a, b] * scale)}
        for x, a, b in at
    ]  # fmt: skip
    return Preferences.of(pa.Table.from_pylist(rows), {"template": template_digest(world.ref)})


def drawn_pairs(world: World, weights: Games, p: Games) -> Preferences:
    """Pairs whose order is drawn by P, in expectation: both orders, each weighted by its probability."""
    return pairs(world, weights * p, p)


def labels(world: World, desirable: Matrix, weights: Matrix) -> Labels:
    """Every answer twice, desirable and not, weighted by the probability of the label."""
    rows = [
        {"prompt_id": f"p{x}", "prompt": [], "completion_id": f"c{y}", "completion": "", "label": label,
         "prompt_tokens": world.asked[x], "completion_tokens": list(world.answers[y]),
         "weight": float(weights[x, y] * (q if label else 1 - q))}
        for (x, y), q in np.ndenumerate(desirable) for label in (True, False)
    ]  # fmt: skip
    return Labels.of(pa.Table.from_pylist(rows), {"template": template_digest(world.ref)})


TRIPLES = [(i, (i + 1) % 7, (i + 3) % 7) for i in range(7)]
"""The Fano plane: every two of the 7 answers meet in exactly one triple."""


def rankings(world: World, rewards: Matrix) -> Rankings:
    """All orders of the triples of answers, weighted by their Plackett-Luce probability."""
    rows = []
    for x, r in enumerate(rewards):
        for triple in TRIPLES:
            for a, b, c in permutations(triple):
                likely = np.exp(r[a]) / np.exp(r[[a, b, c]]).sum() / (1 + np.exp(r[c] - r[b]))
                rows.append({
                    "prompt_id": f"p{x}", "prompt": [], "completion_ids": [f"c{y}" for y in (a, b, c)],
                    "completions": ["", "", ""], "prompt_tokens": world.asked[x],
                    "completions_tokens": [list(world.answers[y]) for y in (a, b, c)], "scores": [3.0, 2.0, 1.0],
                    "weight": 6 * float(likely),
                })  # fmt: skip
    return Rankings.of(pa.Table.from_pylist(rows), {"template": template_digest(world.ref)})


SETTINGS = {
    "schedule": "cosine", "warmup": 0.02, "max_grad_norm": 1e3, "checkpoint_every": 10**6,
    "optimizer": Chosen("optimizers", "adamw", {"betas": [0.9, 0.95]}),
}  # fmt: skip
"""Each step sees the whole table."""


def log_probabilities(policy: Policy, world: World, folder: Path) -> Logps:
    """Those of all answers, as a port of `fit` takes them."""
    return logps(policy, everything(policy, world.asked, world.answers), Workspace(folder))


def trained(world: World, data: Table, loss: Chosen, folder: Path, **settings: Any) -> Policy:
    """The reference after a training on the table, compared with itself where the loss has a reference."""
    ref_logps = log_probabilities(world.ref, world, folder / "ref")
    batch = {"batch": len(data)}
    return fit(world.ref, data, Workspace(folder / "fit"), ref_logps, loss=loss, **{**SETTINGS, **batch, **settings})


def distribution_of(policy: Policy, world: World, folder: Path) -> Matrix:
    return distribution(policy, folder, world.asked, world.answers)


def root_for_each(function: Callable[[Matrix], Matrix], shape: tuple[int, ...], low: float, high: float) -> Matrix:
    """Where an increasing function of each element is 0, by bisection between two bounds."""
    lows, highs = np.full(shape, low), np.full(shape, high)
    for _ in range(80):
        middle = (lows + highs) / 2
        below = function(middle) < 0
        lows, highs = np.where(below, middle, lows), np.where(below, highs, middle)
    return (lows + highs) / 2


def separable_optimum(log_ref: Matrix, slope: Callable[[Matrix], Matrix]) -> Matrix:
    """argmin over policies of E_{y ~ π_ref} ℓ_y(log π/π_ref), where ℓ' = slope is increasing and E ℓ's own minima
    exceed total probability 1: ℓ'_y(a) + λ·exp(a) = 0 with the λ ≥ 0 that makes the policy sum to 1.
    """

    def ratios(level: Matrix) -> Matrix:
        return root_for_each(lambda a: slope(a) + level * np.exp(a), log_ref.shape, -200.0, 50.0)

    def excess(x: int, level: float) -> float:
        return float(np.exp(log_ref + ratios(np.full((len(log_ref), 1), level)))[x].sum() - 1)

    levels = [brentq(lambda level, x=x: excess(x, level), 0.0, 1e3) for x in range(len(log_ref))]
    return normalised(log_ref + ratios(np.array(levels)[:, None]))


def tilted_per_token(log_ref: Matrix, world: World, tilt: Matrix) -> Matrix:
    """π_ref·exp(n·(tilt + c)), n tokens, with the c of each prompt that makes it sum to 1."""
    n = lengths(world)

    def excess(x: int, c: float) -> float:
        return float(np.exp(log_ref[x] + n[0] * (tilt[x] + c)).sum() - 1)

    levels = [brentq(lambda c, x=x: excess(x, c), -30, 30) for x in range(len(log_ref))]
    return np.asarray(log_ref + n * (tilt + np.array(levels)[:, None]))
