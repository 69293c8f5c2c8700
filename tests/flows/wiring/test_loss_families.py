"""Compiler and trainer refuse the same: both run over every family, kind of table, set of arguments and reference."""

import shutil
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tasks
from flows.wiring.builder import Builder
from flows.wiring.catalogue import Catalogue
from flows.wiring.choices import PYTHON
from tasks.contract import Chosen, SpecError
from tasks.families import LOSSES
from tasks.kinds import Completions, Logps, Policy, RewardModel, Table
from tasks.train import logps
from tasks.training.examples import examples_of
from tasks.training.rows import Rows, rows_of
from tasks.training.scores import with_end_token
from tests.flows.codebases import catalogue_of
from tests.losses import PLACKETT_LUCE, loss_of, write_loss
from tests.models import tiny_policy
from tests.tasks.training.tables import demonstrations, labels, preferences, rankings, scores, tokenized, win_rates
from tests.workspace import Workspace

TRAINS = {"fit": Policy, "fit_reward": RewardModel}


class Data(NamedTuple):
    """A table that can be trained on, and the reference's log-probabilities of its answers."""

    table: Table
    rows: Rows
    ref: Logps


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Data]:
    folder = tmp_path_factory.mktemp("tables")
    policy = tiny_policy(folder / "policy")
    scored = scores([0.5, 1.0, -2.0])
    several = [
        preferences(2), demonstrations(3), win_rates(4, 2), rankings((3, 2)), labels([True, False]), scored,
        Completions.of(scored.table.drop_columns(["score", "attributes"])),
    ]  # fmt: skip
    made = {type(table).__name__: tokenized(table, policy, folder) for table in several}
    return {
        kind: Data(table, rows_of(table, policy), logps(policy, table, Workspace(folder / kind)))
        for kind, table in made.items()
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the tasks, to put losses into."""
    ignored = shutil.ignore_patterns("__pycache__", "data")
    return Path(shutil.copytree(Path(str(tasks.__file__)).parent, tmp_path / "tasks", ignore=ignored))


def argument_sets(folder: str) -> Iterator[tuple[str, ...]]:
    """Every argument, every two, all of each table, a typing error, and arguments of no family or of another one."""
    family = LOSSES[folder]
    names = [*family.arguments]
    yield from ((name,) for name in names)
    yield from combinations(names, 2)
    for table in family.tables:
        yield tuple(argument.name for argument in table.arguments)
    yield names[0][:-1], names[1]
    yield names[0], "nothing_of_the_kind"
    yield names[0], next(n for other in LOSSES.values() for n in other.arguments if n not in family.arguments)


def loss_text(name: str, arguments: Sequence[str]) -> str:
    """A loss that reads all of its arguments, whatever their shapes."""
    total = " + ".join(f"{a}.double().nan_to_num().reshape(len({a}), -1).sum(1)" for a in arguments)
    return f"def {name}({', '.join(arguments)}) -> 'Tensor':\n    return {total}\n"


@pytest.mark.parametrize("folder", LOSSES)
def test_check_refuses_what_the_trainer_would_refuse_and_nothing_else(
    folder: str, tables: dict[str, Data], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = folder.removeprefix("losses/")
    losses: dict[str, tuple[Chosen, tuple[str, ...]]] = {}
    for number, names in enumerate(argument_sets(folder)):
        name = f"mine_{number}"
        write_loss(tree, below, name, loss_text(name, names))
        losses[name] = loss_of(monkeypatch, below, name, loss_text(name, names)), names
    catalogue, accepted = catalogue_of(tree), set()
    for loss, names in losses.values():
        for kind, data in tables.items():
            for task, reference in (("fit", False), ("fit", True), ("fit_reward", False)):
                answers = compiles(catalogue, loss, task, kind, reference), trains(loss, task, data, reference)
                assert answers[0] == answers[1], f"{names} on {kind} by {task}, {reference=}: check, trainer {answers}"
                if answers[0]:
                    accepted.add((task, kind))
    assert accepted == {
        ("fit" if family.trains == "Policy" else "fit_reward", kind)
        for family in [LOSSES[folder]] for table in family.tables for named in table.kinds
        for kind in [named, *(["WinRates", "Scores"] if named == "Completions" else [])]
    }  # fmt: skip


def test_a_k_wise_reward_loss_is_one_file(tree: Path) -> None:
    write_loss(tree, "reward", "plackett_luce", PLACKETT_LUCE)
    builder = Builder(catalogue_of(tree), "p")
    policy, ranked, pairs = (builder.carry(k, k, k, PYTHON) for k in ("Policy", "Rankings", "Preferences"))
    step = {"policy": policy, "loss": "plackett_luce", "lr": 0.1}
    assert builder.add("reward", "train_reward", {**step, "data": ranked}).kind == "RewardModel"
    with pytest.raises(SpecError, match=r"plackett_luce \(losses/reward\) trains on Rankings, not on Preferences"):
        builder.add("other", "train_reward", {**step, "data": pairs})


def compiles(catalogue: Catalogue, loss: Chosen, task: str, kind: str, reference: bool) -> bool:
    builder = Builder(catalogue, "p")
    ports = {"policy": "Policy", "data": kind, **(REFERENCES if reference else {})}
    inputs = {port: builder.carry(port, k, k, PYTHON) for port, k in ports.items()}
    try:
        builder.add("step", task, {**inputs, "loss": loss.name, "lr": 0.1})
    except SpecError:
        return False
    return True


REFERENCES = {"ref_logps": "Logps", "anchor_logps": "Logps", "mismatched": "Labels", "mismatched_logps": "Logps"}
"""Ports of `fit` that are all fed, or none."""


def trains(loss: Chosen, task: str, data: Data, reference: bool) -> bool:
    rows = with_end_token(data.rows) if task == "fit_reward" else data.rows
    more: dict[str, Any] = {"anchor_logps": [data.ref], "mismatched": data.rows, "mismatched_logps": data.ref}
    try:
        examples_of(data.table, rows, loss, data.ref if reference else None, TRAINS[task], **more if reference else {})
    except SpecError:
        return False
    return True
