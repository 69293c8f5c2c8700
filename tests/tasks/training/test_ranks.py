"""Two ranks train as one process does: every family, whole in each rank (ddp) and in shards (fsdp)."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tasks.contract import Chosen
from tasks.kinds import Logps, Policy, Table
from tasks.ranks import this_rank
from tasks.training import parallel
from tasks.training.device import this_device
from tasks.training.examples import examples_of
from tasks.training.logps import AnswerLogps
from tasks.training.model import open_model
from tasks.training.opening import open_on_ranks
from tasks.training.packing import PackingConfig
from tasks.training.placement import SHARDING, place
from tasks.training.rows import rows_of
from tasks.training.step import add_gradients
from tests.flat import fit, fit_reward, logps
from tests.forked_ranks import RankWorkspace, on_forked_ranks
from tests.models import tiny_policy
from tests.tasks.training.tables import (
    DPO,
    RRHF,
    SFT,
    SPPO,
    demonstrations,
    preferences,
    rankings,
    tokenized,
    win_rates,
)
from tests.workspace import Workspace

BT = Chosen("losses/reward", "bradley_terry", {})
OPTIONS = {"lr": 1e-3, "steps": 3, "batch": 3, "warmup": 0.0, "max_tokens_per_microbatch": 96, "checkpoint_every": 2}
PACKING = PackingConfig(96, 32, share=True, span_cost=0.0)


class Case(NamedTuple):
    task: Callable[..., Any]
    policy: Policy
    data: Table
    loss: Chosen
    ref: Logps | None
    options: dict[str, Any]

    @property
    def makes_policy(self) -> bool:
        return self.loss.folder != BT.folder


def cases(folder: Path) -> dict[str, Case]:
    """Trainings of 3 steps of 3 rows, of which two ranks read 2 and 1, or 3 and 0."""
    policy = tiny_policy(folder / "policy")
    pairs, rates = tokenized(preferences(7), policy, folder), tokenized(win_rates(10), policy, folder)
    sft = tokenized(demonstrations(7), policy, folder)
    refs = [logps(tiny_policy(folder / "ref", seed=1), table, Workspace(folder / "ref")) for table in (pairs, rates)]
    return {
        "pairs": Case(fit, policy, pairs, DPO, refs[0], {}),
        "win rates": Case(fit, policy, rates, SPPO, refs[1], {"optimizer": "rmsprop", "lr": 2e-5}),
        "rankings": Case(fit, policy, tokenized(rankings(), policy, folder), RRHF, None, {}),
        "demonstrations": Case(fit, policy, sft, SFT, None, {"optimizer": "adamw_offloaded", "steps": None}),
        "reward": Case(fit_reward, policy, pairs, BT, None, {"gradient_checkpointing": "on"}),
    }  # fmt: skip


def train(case: Case, folder: Path) -> list[tuple[int, dict[str, float]]]:
    """The curves; the result lies in `folder`."""
    work = RankWorkspace(folder)
    args = [] if case.ref is None else [case.ref]
    case.task(case.policy, case.data, work, *args, **{**OPTIONS, "loss": case.loss, **case.options})
    return work.curves


def gradients(case: Case, sharding: str) -> dict[str, Any]:
    """Of one step over all rows, on rank 0."""
    examples = examples_of(case.data, rows_of(case.data, case.policy), case.loss, case.ref)
    scorer = open_on_ranks(lambda: AnswerLogps(open_model(case.policy, torch.float32)))
    network = place(scorer, this_device(), half=False, sharded=sharding == "fsdp")
    add_gradients(network, examples, case.loss, np.arange(len(examples.rows)), PACKING)
    network.gather(lambda own: torch.zeros_like(own) if own.grad is None else own.grad)
    return {n: p.detach().numpy() for n, p in scorer.model.named_parameters()} if this_rank().is_first else {}


def on_a_rank(folder: Path, every: dict[str, Case]) -> dict[tuple[str, str], Any]:
    parallel.LARGE = 2000
    found = {}
    for sharding in ("ddp", "fsdp"):
        os.environ[SHARDING] = sharding
        for name, case in every.items():
            of_step = gradients(case, sharding) if case.makes_policy else {}
            found[sharding, name] = of_step, train(case, folder / sharding / name)
    return found


class Found(NamedTuple):
    folder: Path
    cases: dict[str, Case]
    curves: dict[str, Any]
    """Of one process."""
    ranks: list[Any]
    """Of each rank: (sharding, case) → gradients and curves."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("ranks")
    every = cases(folder)
    alone = {name: train(case, folder / "alone" / name) for name, case in every.items()}
    return Found(folder, every, alone, on_forked_ranks(folder, on_a_rank, folder, every))


NAMES = ("pairs", "win rates", "rankings", "demonstrations", "reward")


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_train_as_one_process(name: str, sharding: str, found: Found) -> None:
    """One step's gradients to 1e-6 of the largest, the weights after three steps to 1e-5."""
    case = found.cases[name]
    of_step, curves = found.ranks[0][sharding, name]
    for key, expected in gradients(case, "one").items() if case.makes_policy else ():
        np.testing.assert_allclose(of_step[key], expected, rtol=0, atol=1e-6 * float(np.abs(expected).max()) + 1e-12)
    one, two = (load_file(found.folder / kind / name / "output" / "model.safetensors") for kind in ("alone", sharding))
    before = load_file(case.policy.path / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[key], two[key], rtol=0, atol=1e-5) for key in one)
    assert max(float((one[key] - before[key]).abs().max()) for key in one.keys() & before.keys()) > 1e-4
    for (_, row), (_, expected) in zip(curves, found.curves[name], strict=True):
        assert {**row, "tokens_per_second": 0} == pytest.approx({**expected, "tokens_per_second": 0}, rel=1e-4)
