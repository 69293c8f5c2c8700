"""What losses of single answers reach with the real `fit`: an optimum, or a direction where there is none."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from tasks.contract import Chosen
from tasks.kinds import Completions
from tasks.template import template_digest
from tasks.train import mismatched_answers
from tests.enumerable import World, kl, normalised, row, small_world_in
from tests.enumerable_training import distribution_of, labels, log_probabilities, trained
from tests.workspace import Workspace


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return small_world_in(tmp_path_factory.mktemp("world"))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_fine_tuning_reaches_the_distribution_of_its_demonstrations(
    world: World, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Maximum likelihood of whole answers that are weighted by a distribution has that distribution as its optimum."""
    began, target = time.perf_counter(), normalised(world.log_ref + 2 * world.rewards)
    weights = np.exp(target) * len(world.answers)
    rows = [
        {**row(x, y, world.asked, world.answers), "weight": float(weight)} for (x, y), weight in np.ndenumerate(weights)
    ]
    data = Completions.of(pa.Table.from_pylist(rows), {"template": template_digest(world.ref)})
    loss = Chosen("losses/pointwise", "sft", {"average": "answer"})
    reached = kl(distribution_of(trained(world, data, loss, tmp_path, steps=300, lr=3e-3), world, tmp_path), target)
    start, seconds = kl(world.log_ref, target), time.perf_counter() - began
    record_property("closed form", ("sft, whole answers", "distribution of the demonstrations", start, reached, 300,
                                    seconds))  # fmt: skip
    assert start >= 0.5
    assert reached <= 1e-4


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("loss", "parameters", "weights"),
    [("kto", {}, (1, 1)), ("kto", {"lambda_d": 1.0, "lambda_u": 2.0}, (1, 2)), ("apo_zero_unpaired", {}, (1, 1))],
)
def test_mass_runs_to_the_answers_that_are_desirable_often_enough(
    loss: str, parameters: dict[str, float], weights: tuple[float, float], world: World, tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    """There is no finite optimum; the direction is λ_D·q > λ_U·(1 − q), q = P(desirable | y)."""
    began, q = time.perf_counter(), expit(4 * world.rewards)
    winning = weights[0] * q > weights[1] * (1 - q)
    before = (np.exp(world.log_ref) * winning).sum(axis=1)
    assert winning.any(axis=1).all()
    assert (before < 0.9).all()
    data = labels(world, q, np.ones_like(q))
    fed: dict[str, Any] = {}
    if loss == "kto":
        others = mismatched_answers(world.ref, data, Workspace(tmp_path / "others"))
        fed = {"mismatched": others, "mismatched_logps": log_probabilities(world.ref, world, tmp_path / "again")}
    chosen = Chosen("losses/pointwise", loss, {"beta": 0.5, **parameters})
    policy = trained(world, data, chosen, tmp_path, steps=600, lr=3e-3, **fed)
    after = (np.exp(distribution_of(policy, world, tmp_path)) * winning).sum(axis=1)
    note = f"mass {before.min():.2f} → {after.min():.4f} on λ_D·q > λ_U·(1 − q)"
    record_property("closed form", (f"{loss} {parameters or ''}", note, None, None, 600, time.perf_counter() - began))
    assert (after > 0.99).all()
