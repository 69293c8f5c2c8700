"""Several ranks train as one process does: whole in each rank (ddp) and in shards (fsdp), killed and resumed too."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.contract import Chosen, DataError, SpecError
from tasks.kinds import Logps, Policy, Table
from tasks.parts import is_intact
from tasks.ranks import Ranks, this_rank
from tasks.training import parallel
from tasks.training.device import this_device
from tasks.training.examples import examples_of
from tasks.training.logps import AnswerLogps
from tasks.training.memory import TrainingSetup
from tasks.training.model import open_model
from tasks.training.opening import open_on_ranks
from tasks.training.optimizer import chosen_optimizer
from tasks.training.packing import PackingConfig
from tasks.training.placement import SHARDING, place, sharded_setup
from tasks.training.rank_plan import plan_of_rank, split_rows
from tasks.training.rows import rows_of, rows_of_ids
from tasks.training.shard_files import RowSlice, ShardFiles, save_rows
from tasks.training.step import add_gradients
from tests.devices import H100
from tests.flat import fit, fit_reward, logps
from tests.forked_ranks import RankWorkspace, kill_forked_ranks, on_forked_ranks
from tests.models import tiny_policy
from tests.ranks import as_rank
from tests.tasks.training.loss_inputs import inputs_for
from tests.tasks.training.tables import (
    AOT,
    APO_ZERO_UNPAIRED,
    DPO,
    KTO,
    NASH,
    RRHF,
    SFT,
    SLIC,
    SPPO,
    XPO,
    demonstrations,
    preferences,
    rankings,
    tokenized,
    win_rates,
)
from tests.tasks.training.test_memory import CONFIGS
from tests.workspace import Killed, Workspace

BT = Chosen("losses/reward", "bradley_terry", {})
LORA = Chosen("adapters", "lora", {"rank": 4, "alpha": 8.0, "targets": ["all-linear"]})
OPTIONS = {"lr": 1e-3, "steps": 3, "batch": 3, "warmup": 0.0, "max_tokens_per_microbatch": 96, "checkpoint_every": 1}
PACKING = PackingConfig(96, 32, share=True, span_cost=0.0)
WAYS = ("ddp", "fsdp")


class Case(NamedTuple):
    task: Callable[..., Any]
    policy: Policy
    data: Table
    loss: Chosen
    ref: Logps | None
    options: dict[str, Any]
    near: float = 1e-5
    ports: dict[str, Any] = {}  # noqa: RUF012
    """What the loss reads besides."""

    @property
    def has_gradients(self) -> bool:
        """Whether all of a policy learns."""
        return (
            self.loss.folder != BT.folder and not {"adapter", "dtype", "weight_dtype"} & self.options.keys()
            and not self.ports
        )  # fmt: skip


def _with_ports(policy: Policy, loss: Chosen, folder: Path, **options: Any) -> Case:
    inputs = inputs_for(loss, policy, folder)
    ports = inputs.ports
    return Case(fit, policy, inputs.data, loss, ports.pop("ref_logps"), options, ports=ports)


def fast_cases(folder: Path) -> dict[str, Case]:
    """Trainings of 3 steps of 3 rows, of which two ranks read 2 and 1, or 3 and 0."""
    policy = tiny_policy(folder / "policy")
    policy.digest = "ab" * 16
    pairs = tokenized(preferences(7), policy, folder)
    ref = logps(tiny_policy(folder / "ref", seed=1), pairs, Workspace(folder / "ref"))
    coupled = {loss.name: _with_ports(policy, loss, folder / loss.name) for loss in (AOT, KTO)}
    return {
        **coupled,
        "pairs": Case(fit, policy, pairs, DPO, ref, {}),
        "reward": Case(fit_reward, policy, pairs, BT, None, {"gradient_checkpointing": "on"}),
        "adapter": Case(fit, policy, pairs, DPO, ref, {"adapter": LORA}),
    }


def slow_cases(folder: Path) -> dict[str, Case]:
    """RMSprop divides the first gradients by a tenth of their own size, noise too, so its rate is small here."""
    policy = tiny_policy(folder / "policy")
    policy.digest = "ab" * 16
    rates, pairs = tokenized(win_rates(10), policy, folder), tokenized(preferences(7), policy, folder)
    sft, tied = tokenized(demonstrations(7), policy, folder), _tied(policy, folder / "tied")
    ref = logps(tiny_policy(folder / "ref", seed=1), rates, Workspace(folder / "ref"))
    half = {"dtype": "bfloat16"}
    more = {loss.name: _with_ports(policy, loss, folder / loss.name) for loss in (NASH, SLIC, XPO, APO_ZERO_UNPAIRED)}
    over_weights = {
        f"{loss.name} over weights": _with_ports(policy, loss, folder / f"weights-{loss.name}", average_over="weights")
        for loss in (AOT, DPO)
    }
    return {
        **more,
        **over_weights,
        "win rates": Case(fit, policy, rates, SPPO, ref, {"optimizer": "rmsprop", "lr": 2e-5}),
        "rankings": Case(fit, policy, tokenized(rankings(), policy, folder), RRHF, None, {}),
        "demonstrations": Case(fit, policy, sft, SFT, None, {"optimizer": "adamw_offloaded", "steps": None}),
        "tied": Case(fit, tied, sft, SFT, None, {}),
        "adapter of a reward model": Case(fit_reward, policy, pairs, BT, None, {"adapter": LORA}),
        "bfloat16": Case(fit, policy, sft, SFT, None, half, 1e-2),
        "bfloat16 with gradient checkpointing": Case(
            fit, policy, sft, SFT, None, {**half, "gradient_checkpointing": "on"}, 1e-2
        ),
        "bfloat16 adapter": Case(fit, policy, sft, SFT, None, {**half, "adapter": LORA}, 1e-2),
        "bfloat16 weights": Case(fit, policy, sft, SFT, None, {**half, "weight_dtype": "bfloat16"}, 1e-2),
    }


def _tied(policy: Policy, folder: Path) -> Policy:
    """The same policy with its embedding as head."""
    shutil.copytree(policy.path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return Policy(folder, digest="cd" * 16)


class Stopped(RankWorkspace):
    """All ranks end behind a step, as the executor ends them where one dies."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder)
        self._step = step

    def progress(self, done: float, total: float, unit: str = "") -> None:
        if done == self._step:
            raise Killed


def train(case: Case, folder: Path, stop: int = 0, **options: Any) -> list[tuple[int, dict[str, float]]]:
    """The curves; the result lies in `folder`. stop: the step behind which it is killed, before its checkpoint."""
    work = Stopped(folder, stop) if stop else RankWorkspace(folder)
    args = [] if case.ref is None else [case.ref]
    try:
        case.task(
            case.policy,
            case.data,
            work,
            *args,
            **{**OPTIONS, "loss": case.loss, **case.ports, **case.options, **options},
        )
    except Killed:
        assert stop
    return work.curves


def weights(folder: Path) -> dict[str, Any]:
    (file,) = (folder / "output").glob("*.safetensors")
    return load_file(file)


def gradients(case: Case, sharding: str) -> dict[str, Any]:
    """Of one step over all rows, on rank 0."""
    examples = examples_of(case.data, rows_of(case.data, case.policy), case.loss, case.ref)
    scorer = open_on_ranks(lambda: AnswerLogps(open_model(case.policy, torch.float32)))
    network = place(scorer, this_device(), half=False, sharded=sharding == "fsdp")
    add_gradients(network, examples, case.loss, np.arange(len(examples.rows)), PACKING)
    network.gather(lambda own: torch.zeros_like(own) if own.grad is None else own.grad)
    return {n: p.detach().numpy() for n, p in scorer.model.named_parameters()} if this_rank().is_first else {}


def every_case(folder: Path, cases: dict[str, Case]) -> dict[tuple[str, str], Any]:
    """Run on each rank. Large weights are reduced one by one, small ones together: some are to be large."""
    parallel.LARGE = 2000
    found = {}
    for sharding in WAYS:
        os.environ[SHARDING] = sharding
        for name, case in cases.items():
            of_step = gradients(case, sharding) if case.has_gradients else {}
            found[sharding, name] = of_step, train(case, folder / sharding / name)
    return found


def check(name: str, sharding: str, case: Case, folder: Path, of_step: dict[str, Any], curves: Any, alone: Any) -> None:
    """Against one process: a step's gradients to 1e-6 of the largest, weights and curves after three steps."""
    for key, expected in gradients(case, "one").items() if case.has_gradients else ():
        np.testing.assert_allclose(of_step[key], expected, rtol=0, atol=1e-6 * float(np.abs(expected).max()) + 1e-12)
    one, two = weights(folder / "alone" / name), weights(folder / sharding / name)
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=case.near, msg=f"{sharding} {name} {key}")
    for (_, row), (_, expected) in zip(curves, alone, strict=True):
        near = 1e-4 if case.near == 1e-5 else 2e-2
        assert {**row, "tokens_per_second": 0} == pytest.approx(
            {**expected, "tokens_per_second": 0}, rel=near, abs=1e-5
        )


class Found(NamedTuple):
    folder: Path
    cases: dict[str, Case]
    alone: dict[str, Any]
    """Curves of one process."""
    of_ranks: dict[tuple[str, str], Any]
    """Gradients and curves of rank 0."""
    bits: dict[str, Any]


def on_a_rank(folder: Path, cases: dict[str, Case]) -> tuple[dict[tuple[str, str], Any], dict[str, Any]]:
    found = every_case(folder, cases)
    pairs = cases["pairs"]
    train(pairs, folder / "killed-fsdp", stop=2)
    train(pairs, folder / "killed-fsdp")
    train(pairs, folder / "resumed", stop=2)
    values = logps(pairs.policy, pairs.data, RankWorkspace(folder / "logps"), max_tokens_per_microbatch=40)
    return found, {"logps": values.frame["logps"].to_list()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("ranks")
    cases = fast_cases(folder)
    alone = {name: train(case, folder / "alone" / name) for name, case in cases.items()}
    (of_ranks, bits), _ = on_forked_ranks(folder, on_a_rank, folder, cases)
    return Found(folder, cases, alone, of_ranks, bits)


@pytest.mark.parametrize("sharding", WAYS)
@pytest.mark.parametrize("name", ["pairs", "reward", "adapter", "aot", "kto"])
def test_two_ranks_train_as_one_process(name: str, sharding: str, found: Found) -> None:
    check(name, sharding, found.cases[name], found.folder, *found.of_ranks[sharding, name], found.alone[name])


def test_a_killed_training_of_two_ranks_ends_in_the_same_bytes(found: Found) -> None:
    straight, killed = weights(found.folder / "fsdp" / "pairs"), weights(found.folder / "killed-fsdp")
    assert all(torch.equal(straight[name], killed[name]) for name in straight)


def test_a_checkpoint_of_shards_is_read_by_one_process(found: Found) -> None:
    """Two ranks trained one step in shards, and were killed behind the second; one process goes on."""
    curves = train(found.cases["pairs"], found.folder / "resumed")
    assert [step for step, _ in curves] == [2, 3]
    one, resumed = weights(found.folder / "alone" / "pairs"), weights(found.folder / "resumed")
    assert all(torch.allclose(one[name], resumed[name], rtol=0, atol=1e-5) for name in one)


def test_log_probabilities_of_two_ranks_are_those_of_one_process(found: Found, tmp_path: Path) -> None:
    pairs = found.cases["pairs"]
    alone = logps(pairs.policy, pairs.data, Workspace(tmp_path), max_tokens_per_microbatch=40)
    assert found.bits["logps"] == pytest.approx(alone.frame["logps"].to_list(), abs=1e-5, rel=0)


@pytest.mark.slow
def test_every_family_and_type_trains_on_two_ranks_as_in_one_process(tmp_path: Path) -> None:
    cases = slow_cases(tmp_path)
    alone = {name: train(case, tmp_path / "alone" / name) for name, case in cases.items()}
    of_ranks, _ = on_forked_ranks(tmp_path, every_case, tmp_path, cases, seconds=500)
    for (sharding, name), (of_step, curves) in of_ranks.items():
        check(name, sharding, cases[name], tmp_path, of_step, curves, alone[name])


def long_training(folder: Path, case: Case, to: Path) -> None:
    train(case, to, steps=40, checkpoint_every=2)


@pytest.mark.slow
def test_ranks_that_die_at_any_moment_leave_a_whole_checkpoint_for_any_number_of_ranks(tmp_path: Path) -> None:
    """Two ranks, one and two in turn, whole and in shards; a rank is killed ten times, and then they end."""
    case = slow_cases(tmp_path)["demonstrations"]
    seconds = 0.0
    for undisturbed in ("alone", "timed"):  # the first one also waits for the forkserver's imports
        begun = time.monotonic()
        one = (tmp_path, long_training, tmp_path, case, tmp_path / undisturbed)
        assert kill_forked_ranks(*one, world=1, env={}, rank=0, pause=200.0)
        seconds = time.monotonic() - begun
    draw, deaths, steps = np.random.default_rng(0), 0, [0]
    ways = [(2, "ddp"), (1, "ddp"), (2, "fsdp"), (1, "fsdp")]
    for attempt in range(40):
        world, sharding = ways[attempt % len(ways)]
        last = deaths == 10
        pause = 200.0 if last else seconds * float(draw.uniform(0.05, 0.4))
        ended = kill_forked_ranks(
            tmp_path, long_training, tmp_path, case, tmp_path / "killed", world=world, env={SHARDING: sharding},
            rank=int(draw.integers(world)), pause=pause,
        )  # fmt: skip
        checkpoints = [p for p in (tmp_path / "killed/work/checkpoint").glob("step-*") if is_intact(p)]
        steps.append(max((int(p.name.removeprefix("step-")) for p in checkpoints), default=0))
        assert steps[-1] >= steps[-2], "a checkpoint is lost"
        deaths += not ended
        if ended:
            break
    assert deaths
    assert steps[-1] == 40
    one, killed = weights(tmp_path / "alone"), weights(tmp_path / "killed")
    assert all(torch.allclose(one[name], killed[name], rtol=0, atol=1e-5) for name in one)


ROWS = rows_of_ids([[1] * 8] * 3 + [[i] * 4 for i in range(5)], [[2] * n for n in (30, 5, 5, 9, 9, 9, 3, 3)])


@pytest.mark.parametrize("world", [2, 3, 5])
def test_a_batch_is_split_evenly_and_every_row_is_read_once(world: int) -> None:
    parts = split_rows(ROWS, np.arange(8), PACKING, world)
    assert sorted(np.concatenate(parts).tolist()) == list(range(8))
    assert all(len(part) for part in parts)
    tokens = [int(ROWS.tokens[part].sum()) for part in parts]
    assert max(tokens) <= max(38, 1.3 * sum(tokens) / world), "the longest row alone has 38"


def test_rows_of_one_prompt_are_split_where_they_are_all_there_is() -> None:
    assert sorted(map(len, split_rows(ROWS, np.arange(3), PACKING, 2))) == [1, 2]


def test_all_ranks_make_equal_numbers_of_passes_and_a_rank_without_rows_counts_none() -> None:
    plans = [plan_of_rank(ROWS, np.arange(1), PACKING, Ranks(rank, 2)) for rank in range(2)]
    assert [[counts for _, counts in plan.in_step()] for plan in plans] == [[True], [False]]
    few = PACKING._replace(tokens=20)
    plans = [plan_of_rank(ROWS, np.arange(8), few, Ranks(rank, 3)) for rank in range(3)]
    assert len({len(list(plan.in_step())) for plan in plans}) == 1


@pytest.mark.parametrize(("rows", "batch", "message"), [
    (3, 3, r"the table has 3 rows for 4 ranks: .* Use at most 3 ranks"),
    (7, 2, r"a batch has 2 rows for 4 ranks: .* Use at most 2 ranks"),
])  # fmt: skip
def test_more_ranks_than_rows_are_refused_before_the_model_is_opened(
    rows: int, batch: int, message: str, policy: Policy, tmp_path: Path
) -> None:
    data = tokenized(demonstrations(rows), policy, tmp_path)
    (tmp_path / "empty").mkdir()
    with as_rank(0, 4), pytest.raises(DataError, match=message):
        fit(Policy(tmp_path / "empty"), data, Workspace(tmp_path), loss=SFT, lr=1e-3, batch=batch)


def test_an_optimizer_that_needs_whole_weights_is_refused_in_shards(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tokenized(demonstrations(4), policy, tmp_path)
    monkeypatch.setenv(SHARDING, "fsdp")
    with as_rank(0, 2), pytest.raises(SpecError, match=r"adafactor cannot step on parts of weights, .* use adamw, "):
        fit(policy, data, Workspace(tmp_path), loss=SFT, lr=1e-3, optimizer="adafactor")


@pytest.mark.parametrize(("setting", "name", "optimizer", "shards"), [
    ("auto", "0.5B", "adamw", 1), ("auto", "8B", "adamw", 8), ("auto", "8B", "adafactor", 1),
    ("ddp", "8B", "adamw", 1), ("fsdp", "0.5B", "adamw", 8), (None, "8B", "adamw", 8),
])  # fmt: skip
def test_weights_lie_in_shards_where_they_are_to_or_do_not_fit_on_one_device(
    setting: str | None, name: str, optimizer: str, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight H100 of 79 GiB; the training of 8B in float32 with AdamW takes 130."""
    monkeypatch.delenv(SHARDING, raising=False) if setting is None else monkeypatch.setenv(SHARDING, setting)
    setup = TrainingSetup(8192, half=True, logits=H100.head_logits)
    model = SimpleNamespace(config=SimpleNamespace(to_dict=lambda: CONFIGS[name]))
    with as_rank(0, 8):
        found = sharded_setup(setup, model, H100, chosen_optimizer(optimizer))
    assert found.shards == shards


def test_rows_are_read_from_whichever_files_have_them(tmp_path: Path) -> None:
    """Five rows in files of 3 and 2; a number that all ranks have; a vector that one rank has whole."""
    whole = torch.arange(15.0).view(5, 3)
    count, vector = torch.tensor(4.0), torch.ones(2)
    save_rows({"m": RowSlice(whole[:3]), "n": RowSlice(count), "v": RowSlice(vector)}, tmp_path / "1")
    save_rows({"m": RowSlice(whole[3:], 3), "n": RowSlice(count), "v": RowSlice(vector[:0], 2)}, tmp_path / "2")
    with ShardFiles([tmp_path / "2", tmp_path / "1"]) as files:
        assert files.names == {"m", "n", "v"}
        assert files.shape("m") == (5, 3)
        assert torch.equal(files.read("m", 2, (2, 3)), whole[2:4])
        assert files.read("m", 5, (0, 3)).shape == (0, 3)
        assert [torch.equal(files.whole(n), x) for n, x in (("m", whole), ("n", count), ("v", vector))] == [True] * 3
