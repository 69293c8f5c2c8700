"""PPO with adapters on one base in memory: equal to three models apart, through kills and rounds, and stored small."""

import copy
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.calls import Adapter
from tasks.contract import Chosen, DataError, SpecError
from tasks.kinds import Policy, RewardModel
from tasks.rl import checkpoint_at, value_of
from tasks.rollouts import networks as networks_module
from tasks.rollouts.networks import Networks, open_networks, read_tokens
from tasks.rollouts.one_base import open_on_base
from tasks.training.adapters import add_layers, learning_parameters
from tasks.training.model import open_model
from tasks.training.reward import open_reward_model, save_reward_model
from tasks.training.settings import GradientComputeConfig
from tests.models import tiny_policy
from tests.tasks.rollouts.small import files_of, plain_curves, run, value_from
from tests.tasks.rollouts.test_heads_and_updates import ROWS
from tests.workspace import Killed, Mortal, Workspace

LORA: dict[str, Any] = {"lora": {"rank": 4, "alpha": 8}}
ADAPTER = Adapter(4, 8.0, ("all-linear",))
FLOAT32 = GradientComputeConfig("float32")


def reward_adapter(base: Policy, folder: Path, adapter: Adapter = ADAPTER) -> RewardModel:
    """A reward model as an adapter of a policy's base, with a random head and random layers."""
    folder.mkdir(parents=True)
    model = open_reward_model(base, torch.float32)
    add_layers(model, adapter, seed=5)
    for parameter in learning_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    save_reward_model(model, base, folder)
    return RewardModel(folder, base=base)


@pytest.fixture(scope="module")
def critic(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    return reward_adapter(policy, tmp_path_factory.mktemp("critic") / "made", Adapter(2, 4.0, ("q_proj", "up_proj")))


@pytest.fixture(scope="module")
def first(policy: Policy, critic: RewardModel, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """The policy of a first round of two iterations, with an iteration kept."""
    work = Workspace(tmp_path_factory.mktemp("first"))
    return run(policy, critic, work, adapter=LORA, iterations=2, lr=1e-2, checkpoints=[1])


def apart(*given: Any, **options: Any) -> tuple[Any, Any, Any]:
    """The models of `open_on_base`, each a copy of its own."""
    model, critic, anchor = open_on_base(*given, **options)
    return copy.deepcopy(model), copy.deepcopy(critic), copy.deepcopy(anchor)


def test_networks_on_one_base_learn_as_three_models_do(
    policy: Policy, critic: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works, made = [Workspace(tmp_path / "one"), Workspace(tmp_path / "three")], []
    for work, opening in zip(works, (open_on_base, apart), strict=True):
        monkeypatch.setattr(networks_module, "open_on_base", opening)
        made.append(run(policy, critic, work, adapter=LORA, iterations=2, lr=1e-2))
    for name in ("adapter.safetensors", "value/adapter.safetensors"):
        one, three = (load_file(p.path / name) for p in made)
        start = load_file(critic.path / "adapter.safetensors") if name.startswith("value") else None
        for key, tensor in one.items():
            torch.testing.assert_close(tensor, three[key], rtol=0, atol=1e-6)
            assert tensor.abs().sum() > 0
            assert start is None or not torch.equal(tensor, start[key]), key
    for (_, a), (_, b) in zip(*map(plain_curves, works), strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def _outputs(networks: Networks) -> dict[str, torch.Tensor]:
    which = {"policy": networks.policy, "ref": networks.ref, "value": networks.value}
    found = read_tokens(networks, ROWS, which)
    for name, alone in which.items():  # in another order, so that one leaves its layers to another
        assert torch.equal(read_tokens(networks, ROWS, {name: alone})[name], found[name])
    return found


def test_each_network_on_one_base_computes_as_its_own_model_does(
    policy: Policy, critic: RewardModel, first: Policy, tmp_path: Path
) -> None:
    """A second round: the policy is an adapter, and the reference the base or that adapter, which stays."""
    whole = open_networks(policy, value_from(policy, tmp_path / "v"), policy, 0.7, FLOAT32)
    base = _outputs(whole)["ref"]
    on_base = open_networks(first, critic, policy, 0.7, FLOAT32, ADAPTER)
    assert on_base.ref.model is on_base.policy.model
    assert on_base.value.model.base_model is on_base.policy.model.base_model
    found = _outputs(on_base)
    assert torch.equal(found["ref"], base)
    assert not torch.allclose(found["policy"], base, atol=1e-2)

    before = open_networks(first, critic, first, 0.7, FLOAT32, ADAPTER)
    again = _outputs(before)
    assert torch.equal(again["ref"], again["policy"])
    assert torch.equal(again["value"], found["value"])
    for parameter in before.learned[0]:
        parameter.data += 0.01
    moved = _outputs(before)
    assert torch.equal(moved["ref"], again["ref"])
    assert torch.equal(moved["value"], again["value"])
    assert not torch.allclose(moved["policy"], again["policy"], atol=1e-3)

    own = copy.deepcopy(whole.value)
    own.model = open_reward_model(critic, torch.float32)
    assert torch.equal(read_tokens(whole, ROWS, {"v": own})["v"], found["value"])


def test_a_reference_that_is_the_base_is_the_same_as_a_copy_of_it(
    policy: Policy, critic: RewardModel, tmp_path: Path
) -> None:
    shutil.copytree(policy.path, tmp_path / "copy")
    works, made = [], []
    for name, ref in (("off", policy), ("copy", Policy(tmp_path / "copy"))):
        works.append(Workspace(tmp_path / name))
        made.append(run(policy, critic, works[-1], ref=ref, adapter=LORA, iterations=2, lr=1e-2, epochs=1))
    assert files_of(made[0].path) == files_of(made[1].path)
    assert plain_curves(works[0]) == plain_curves(works[1])


def test_what_is_learnt_is_stored_as_adapters_and_nothing_else(policy: Policy, first: Policy) -> None:
    assert first.base is policy
    for model in (first, value_of(first), checkpoint_at(first, step=1)):
        assert model.base is policy
        assert json.loads((model.path / "adapter.json").read_text())["base"] == policy.digest
        weights = {f.name for f in model.path.glob("*.safetensors")}
        assert weights == {"adapter.safetensors"}
    assert value_of(first).adapter == {
        "type": "lora", "rank": 2, "alpha": 4.0, "targets": ["q_proj", "up_proj"], "base": policy.digest
    }  # fmt: skip
    assert "score.weight" in load_file(first.path / "value" / "adapter.safetensors")
    rows = [load_file(m.path / "adapter.safetensors") for m in (first, checkpoint_at(first, step=1))]
    assert not torch.equal(*(next(iter(r.values())) for r in rows))
    open_model(checkpoint_at(first, step=1), torch.float32)


def test_neither_a_kill_nor_activations_computed_again_change_a_bit(
    policy: Policy, critic: RewardModel, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "adapter": LORA, "iterations": 3, "lr": 1e-2, "checkpoint_every": 1, "checkpoints": [1, 2], "epochs": 1,
    }  # fmt: skip
    straight = Workspace(tmp_path / "straight")
    expected = run(policy, critic, straight, **options)
    with pytest.raises(Killed):
        run(policy, critic, Mortal(tmp_path / "killed", 2), **options)
    work = Workspace(tmp_path / "killed")
    found = run(policy, critic, work, **options, gradient_checkpointing="on")
    assert files_of(found.path) == files_of(expected.path)
    assert plain_curves(work) == plain_curves(straight)[1:]


def test_two_rounds_are_one_training(policy: Policy, critic: RewardModel, tmp_path: Path) -> None:
    options: dict[str, Any] = {"adapter": LORA, "lr": 1e-2, "ref": policy, "epochs": 1}
    whole, halves = Workspace(tmp_path / "whole"), [Workspace(tmp_path / str(n)) for n in (1, 2)]
    expected = run(policy, critic, whole, **options, iterations=2)
    half = run(policy, critic, halves[0], **options, iterations=1)
    found = run(half, value_of(half), halves[1], **options, iterations=1)
    assert found.base is policy
    assert files_of(found.path) == files_of(expected.path)
    curves = plain_curves(halves[0]) + [(step + 1, row) for step, row in plain_curves(halves[1])]
    assert curves == plain_curves(whole)


def test_a_whole_reward_model_learns_in_a_copy_of_its_own(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    made = run(policy, value, Workspace(tmp_path), adapter=LORA, iterations=1)
    assert value_of(made).adapter is None
    start, end = (load_file(p / "model.safetensors") for p in (value.path, made.path / "value"))
    assert not any(torch.equal(start[n], end[n]) for n in start if "q_proj" in n or n == "score.weight")


def test_bodies_in_bfloat16_sample_and_learn_as_one_policy(policy: Policy, critic: RewardModel, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    made = run(policy, critic, work, adapter=LORA, dtype="bfloat16", iterations=2, epochs=1)
    assert {t.dtype for t in load_file(made.path / "adapter.safetensors").values()} == {torch.float32}
    assert max(row["sampler/logp_difference"] for _, row in work.curves) < 0.05


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_loads_the_base_once_and_samples_with_the_adapter_of_each_iteration(
    policy: Policy, critic: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.engines import vllm

    loads: list[int] = []
    real = vllm._load
    monkeypatch.setattr(vllm, "_load", lambda **settings: (loads.append(1), real(**settings))[1])
    work = Workspace(tmp_path)
    run(policy, critic, work, adapter=LORA, engine=Chosen("engines", "vllm", {}), lr=2e-2, iterations=3)
    assert loads == [1]
    assert work.curves[-1][1]["objective/kl"] > 0.5
    assert max(row["sampler/logp_difference_max"] for _, row in work.curves) < 1e-3


def test_what_cannot_learn_together_is_refused_before_anything_is_sampled(
    policy: Policy, critic: RewardModel, value: RewardModel, first: Policy, tmp_path: Path
) -> None:
    other = tiny_policy(tmp_path / "other", seed=3)
    for given, options, error, text in (
        ((policy, critic), {}, SpecError, r"`value` at .* is an adapter, and the whole policy is to learn"),
        ((other, critic), {"adapter": LORA}, DataError, r"is an adapter of .*and the policy's base is .*/other"),
        ((first, value), {}, SpecError, "merge"), ((first, critic), {"adapter": "lora"}, SpecError, "rank: 4"),
    ):  # fmt: skip
        work = Workspace(tmp_path / "refused")
        with pytest.raises(error, match=text):
            run(*given, work, **options)
        assert work.progress_calls == []
