"""Adapters: what they add, what is written, kills, what they may go on from, bytes of the base."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.adapt import merge
from tasks.calls import Adapter
from tasks.contract import Chosen, DataError, SpecError
from tasks.kinds import ADAPTER, Policy, RewardModel, Table
from tasks.training.adapters import (
    NAME,
    TENSORS,
    adapted_layers,
    adapter_in,
    add_layers,
    layers_of,
    target_layers,
    use_layers,
)
from tasks.training.model import open_frozen, open_model
from tasks.training.reward import open_reward_model
from tests.flat import fit, fit_reward, logps
from tests.models import tiny_policy
from tests.tasks.training.tables import DPO, SFT, message, preferences, tokenized
from tests.workspace import Killed, Mortal, Workspace

ALL = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
BT = Chosen("losses/reward", "bradley_terry", {})


def lora(rank: int = 4, alpha: float = 8.0, targets: tuple[str, ...] = ("all-linear",)) -> Chosen:
    return Chosen("adapters", "lora", {"rank": rank, "alpha": alpha, "targets": list(targets)})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """A policy whose digest is as long as a store's."""
    policy = tiny_policy(tmp_path_factory.mktemp("base"), generation={"max_new_tokens": 9})
    policy.digest = "ab" * 16
    return policy


@pytest.fixture(scope="module")
def pairs(base: Policy, tmp_path_factory: pytest.TempPathFactory) -> Table:
    return tokenized(preferences(12), base, tmp_path_factory.mktemp("pairs"))


def trained(start: Policy, pairs: Table, folder: Path, **options: Any) -> Policy:
    ref = logps(start, pairs, Workspace(folder / "ref"))
    settings = {"loss": DPO, "lr": 1e-2, "epochs": 3, "batch": 6, "adapter": lora(), **options}
    return fit(start, pairs, Workspace(folder), ref, **settings)


@pytest.fixture(scope="module")
def adapted(base: Policy, pairs: Table, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return trained(base, pairs, tmp_path_factory.mktemp("adapted"))


def values(policy: Policy, pairs: Table, folder: Path, **options: Any) -> np.ndarray:
    return logps(policy, pairs, Workspace(folder / "values"), **options).frame["logps"].to_numpy()


def test_new_layers_add_nothing_and_the_first_loss_is_log_2(base: Policy, pairs: Table, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    fit(base, pairs, work, logps(base, pairs, work), loss=DPO, lr=1e-3, batch=12, adapter=lora())
    ((_, first),) = work.curves
    assert first["train/loss"] == np.float64(np.log(2))
    assert first["rewards/margins"] == 0


def test_a_layer_adds_alpha_over_rank_times_b_a(base: Policy) -> None:
    """W x + 8/4·B A x, and A is within ±1/√in."""
    model = open_model(base, torch.float32)
    add_layers(model, Adapter(4, 8.0, ("q_proj",)), seed=3)
    layer = layers_of(model)["model.layers.1.self_attn.q_proj"]
    a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    assert a.shape == (4, 32)
    assert b.shape == (64, 4)
    assert 0.9 / 32**0.5 < a.abs().max() <= 1 / 32**0.5
    b.data = torch.randn(b.shape)
    x = torch.randn(3, 32)
    expected = x @ (layer.base_layer.weight + 2 * b @ a).T
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    assert len(layers_of(model)) == 2


def test_an_adapter_holds_its_matrices_and_the_small_files_of_its_base(base: Policy, adapted: Policy) -> None:
    names = {p.name for p in adapted.path.iterdir()}
    assert names == {p.name for p in base.path.iterdir()} - {"model.safetensors"} | {ADAPTER, TENSORS}
    assert json.loads((adapted.path / ADAPTER).read_text()) == {
        "type": "lora", "rank": 4, "alpha": 8.0, "targets": [*ALL], "base": base.digest,
    }  # fmt: skip
    for name in names - {ADAPTER, TENSORS}:
        assert (adapted.path / name).read_bytes() == (base.path / name).read_bytes()
    tensors = load_file(adapted.path / TENSORS)
    assert len(tensors) == 2 * 2 * len(ALL)
    assert tensors["model.layers.0.mlp.down_proj.lora_B.weight"].shape == (32, 4)
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert adapted.base is base
    assert adapted.base_digest == base.digest


def test_equal_trainings_on_one_base_in_two_folders_are_equal_to_the_byte(
    base: Policy, pairs: Table, adapted: Policy, tmp_path: Path
) -> None:
    shutil.copytree(base.path, tmp_path / "elsewhere")
    other = trained(Policy(tmp_path / "elsewhere", base.digest), pairs, tmp_path / "training")
    for file in adapted.path.iterdir():
        assert file.read_bytes() == (other.path / file.name).read_bytes()
        assert str(base.path).encode() not in file.read_bytes()


def test_without_its_layers_an_adapter_is_its_base_to_the_bit(
    base: Policy, adapted: Policy, pairs: Table, tmp_path: Path
) -> None:
    ids = torch.arange(9)[None] + 20
    model, plain = open_model(adapted, torch.float32), open_model(base, torch.float32)
    with torch.no_grad():
        use_layers(adapted_layers(model), None)
        assert torch.equal(model(ids).logits, plain(ids).logits)
        use_layers(adapted_layers(model), NAME)
        assert (model(ids).logits - plain(ids).logits).abs().max() > 0.1
    assert np.abs(values(base, pairs, tmp_path) - values(adapted, pairs, tmp_path)).max() > 1


@pytest.mark.parametrize("types", [{}, {"dtype": "bfloat16"}, {"dtype": "bfloat16", "weight_dtype": "bfloat16"}])
def test_a_training_starts_where_logps_is_to_the_bit(
    adapted: Policy, pairs: Table, types: dict[str, str], tmp_path: Path
) -> None:
    """Also in bfloat16, because the frozen base is kept alike. A single micro-batch."""
    work = Workspace(tmp_path)
    ref = logps(adapted, pairs, Workspace(tmp_path / "ref"), **types)
    fit(adapted, pairs, work, ref, loss=DPO, lr=1e-3, batch=12, adapter=lora(), **types)
    assert work.curves[0][1]["rewards/margins"] == 0


def test_merged_weights_compute_what_the_layers_do(adapted: Policy, pairs: Table, tmp_path: Path) -> None:
    whole = merge([adapted], Workspace(tmp_path / "merge"))
    assert whole.adapter is None
    assert {p.name for p in whole.path.iterdir()} == {p.name for p in adapted.path.iterdir()} - {ADAPTER, TENSORS} | {
        "model.safetensors"
    }
    apart = np.abs(values(whole, pairs, tmp_path / "a") - values(adapted, pairs, tmp_path / "b"))
    assert apart.max() < 1e-4
    half = merge([adapted], Workspace(tmp_path / "half"), dtype="bfloat16")
    assert {t.dtype for t in load_file(half.path / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((half.path / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(DataError, match="nothing to merge"):
        merge([whole], Workspace(tmp_path / "again"))


def test_a_killed_training_ends_in_the_same_bytes_and_its_checkpoints_hold_the_adapter_alone(
    base: Policy, pairs: Table, adapted: Policy, tmp_path: Path
) -> None:
    ref = logps(base, pairs, Workspace(tmp_path / "ref"))
    options: dict[str, Any] = {
        "loss": DPO, "lr": 1e-2, "epochs": 3, "batch": 6, "adapter": lora(), "checkpoint_every": 2,
    }  # fmt: skip
    with pytest.raises(Killed):
        fit(base, pairs, Mortal(tmp_path / "killed", 5), ref, **options)
    (checkpoint,) = (tmp_path / "killed/work/checkpoint").iterdir()
    assert checkpoint.name == "step-4"
    (weights,) = checkpoint.glob("model-*.safetensors")
    kept = load_file(weights)
    assert sum(t.numel() for t in kept.values()) == sum(t.numel() for t in load_file(adapted.path / TENSORS).values())
    work = Workspace(tmp_path / "killed")
    found = fit(base, pairs, work, ref, **options)
    assert [step for step, _ in work.curves] == [5, 6]
    assert (found.path / TENSORS).read_bytes() == (adapted.path / TENSORS).read_bytes()


@pytest.mark.parametrize("settings", [
    {"gradient_checkpointing": "on"},
    pytest.param({"gradient_checkpointing": "on", "dtype": "bfloat16"}, marks=pytest.mark.slow),
])  # fmt: skip
def test_gradient_checkpointing_works_on_a_frozen_base_to_the_bit(
    base: Policy, pairs: Table, settings: dict[str, str], tmp_path: Path
) -> None:
    dtype = settings.get("dtype", "float32")
    plain, again = (
        trained(base, pairs, tmp_path / name, epochs=1, **options)
        for name, options in (("plain", {"dtype": dtype}), ("again", settings))
    )
    assert (plain.path / TENSORS).read_bytes() == (again.path / TENSORS).read_bytes()


@pytest.mark.slow
def test_casts_that_autocast_makes_itself_change_no_bit(
    base: Policy, pairs: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [trained(base, pairs, tmp_path / "less", epochs=1, dtype="bfloat16")]
    for file in ("adapters", "model"):
        monkeypatch.setattr(f"tasks.training.{file}.leave_casts_to_autocast", lambda _: None)
    made.append(trained(base, pairs, tmp_path / "more", epochs=1, dtype="bfloat16"))
    one, other = ((policy.path / TENSORS).read_bytes() for policy in made)
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adafactor", "adamw_offloaded", "rmsprop"])
def test_other_optimizers_train_an_adapter(base: Policy, pairs: Table, optimizer: str, tmp_path: Path) -> None:
    found = trained(base, pairs, tmp_path, epochs=1, optimizer=optimizer, weight_dtype="bfloat16", dtype="bfloat16")
    tensors = load_file(found.path / TENSORS)
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert all(t.abs().max() > 0 for name, t in tensors.items() if "lora_B" in name)


def test_a_next_training_goes_on_with_the_same_layers(
    base: Policy, adapted: Policy, pairs: Table, tmp_path: Path
) -> None:
    """Its result is an adapter of the same base; a small step moves it little."""
    second = trained(adapted, pairs, tmp_path, lr=1e-6, epochs=1, adapter=lora(targets=ALL))
    assert second.base is base
    assert second.base_digest == base.digest
    one, other = (load_file(p.path / TENSORS) for p in (adapted, second))
    assert 0 < max(float((one[n] - other[n]).abs().max()) for n in one) < 1e-5


@pytest.mark.parametrize(("adapter", "match"), [
    (None, r"is an adapter, \{lora: \{rank: 4, alpha: 8, targets: \[down_proj, .* and `adapter` is not given"),
    (lora(rank=8), r"`adapter` is \{lora: \{rank: 8, .*set `adapter` to that one, or `merge` it first"),
    (lora(alpha=4.0), r"`adapter` is \{lora: \{rank: 4, alpha: 4"),
    (lora(targets=("q_proj",)), r"targets: \[q_proj\]\}\}\. A training goes on"),
])  # fmt: skip
def test_another_adapter_than_that_of_the_start_is_refused(
    adapted: Policy, pairs: Table, adapter: Chosen | None, match: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=match):
        fit(adapted, pairs, Workspace(tmp_path), loss=SFT, lr=1e-3, adapter=adapter)


@pytest.mark.slow
def test_targets_that_turn_out_to_be_others_are_refused_too(base: Policy, pairs: Table, tmp_path: Path) -> None:
    """`all-linear` may be what an adapter has; this one has less."""
    few = trained(base, pairs, tmp_path / "few", epochs=1, adapter=lora(targets=("q_proj", "v_proj")))
    with pytest.raises(SpecError, match=r"targets: \[q_proj, v_proj\]\}\}, and `adapter` is .*targets: \[all-linear\]"):
        trained(few, pairs, tmp_path / "all")


def test_unknown_targets_are_refused_with_those_that_there_are(base: Policy, pairs: Table, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no linear layer 'qkv' in its body; it has \['down_proj', "):
        trained(base, pairs, tmp_path, adapter=lora(targets=("qkv",)))


def test_the_head_is_no_target_and_targets_may_be_whole_names(base: Policy) -> None:
    model = open_model(base, torch.float32)
    assert not [name for name in target_layers(model, ["all-linear"]) if "lm_head" in name]
    add_layers(model, Adapter(2, 2.0, ("layers.0.self_attn.q_proj", "v_proj")))
    adapter = adapter_in(model)
    assert adapter
    assert adapter.targets == ("model.layers.0.self_attn.q_proj", "v_proj")


def test_a_stored_type_for_whole_models_is_refused(base: Policy, pairs: Table, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="save_dtype: split is for whole models"):
        trained(base, pairs, tmp_path, save_dtype="split")


def test_an_adapter_without_its_base_or_with_another_is_refused(adapted: Policy, base: Policy) -> None:
    for wrong, match in [
        (None, "the model abababababab that it belongs to is not given"),
        (Policy(base.path, "cd" * 16), "an adapter of the model abababababab, not of cdcdcdcdcdcd"),
        (adapted, "is an adapter of the model abababababab|is itself an adapter"),
    ]:
        with pytest.raises(DataError, match=match):
            open_model(Policy(adapted.path, base=wrong), torch.float32)


def test_an_adapter_of_another_shape_is_refused(adapted: Policy, tmp_path: Path) -> None:
    wide = tiny_policy(tmp_path / "wide", hidden=64)
    name = r"model\.layers\.0\.mlp\.down_proj\.lora_A\.weight"
    with pytest.raises(DataError, match=rf"does not fit LlamaForCausalLM: {name} is \(4, 64\), .* takes \(4, 128\)"):
        open_model(Policy(adapted.path, base=Policy(wide.path)), torch.float32)


def test_the_frozen_base_takes_two_bytes_a_parameter_where_products_are_half(
    base: Policy, adapted: Policy, tmp_path: Path
) -> None:
    """Products in bfloat16, norms and embedding in float32; or all in bfloat16. The adapter is float32."""
    for weight_dtype, others in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = open_frozen(adapted, lambda dtype: open_model(adapted, dtype), weight_dtype, half=True)
        types = {name: p.dtype for name, p in model.named_parameters()}
        assert {t for name, t in types.items() if "lora_" in name} == {torch.float32}
        assert {t for name, t in types.items() if "base_layer" in name or "lm_head" in name} == {torch.bfloat16}
        assert {t for name, t in types.items() if "norm" in name or "embed" in name} == {others}


def test_half_precision_weights_are_never_read_into_float32(base: Policy, tmp_path: Path) -> None:
    """The same bits as by way of float32."""
    shutil.copytree(base.path, tmp_path / "half")
    weights = load_file(base.path / "model.safetensors")
    save_file({n: t.bfloat16() for n, t in weights.items()}, tmp_path / "half/model.safetensors", {"format": "pt"})
    half, opened = Policy(tmp_path / "half"), []

    def opening(dtype: torch.dtype) -> Any:
        opened.append(dtype)
        return open_model(half, dtype)

    for weight_dtype in ("float32", "bfloat16"):
        model = open_frozen(half, opening, weight_dtype, half=True)
        by_float32 = open_frozen(base, lambda _: open_model(half, torch.float32), weight_dtype, half=True)
        other = dict(by_float32.named_parameters())
        assert all(p.dtype == other[n].dtype and torch.equal(p, other[n]) for n, p in model.named_parameters())
    assert opened == [torch.bfloat16] * 2


@pytest.mark.slow
def test_a_path_without_an_adapter_never_imports_peft(base: Policy, pairs: Table, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import torch; from tasks.kinds import Policy\n"
        "from tasks.training.logps import AnswerLogps; from tasks.training.model import open_model, save_model\n"
        f"model = open_model(Policy(Path({str(base.path)!r})), torch.float32); AnswerLogps(model)\n"
        "import tasks.training.loop, tasks.train, tasks.reward, tasks.adapt\n"
        f"save_model(model, Policy(Path({str(base.path)!r})), Path({str(tmp_path)!r}))\n"
        "print([m for m in ('peft',) if m in sys.modules])"
    )
    found = subprocess.check_output([sys.executable, "-c", code], text=True, stderr=subprocess.DEVNULL)
    assert found.splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def rewards(base: Policy, pairs: Table, tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    folder = tmp_path_factory.mktemp("rewards")
    return fit_reward(base, pairs, Workspace(folder), loss=BT, lr=1e-2, epochs=12, batch=6, adapter=lora())


ASKED = [message("where does the swan live ?")] * 2


def test_a_reward_model_is_an_adapter_and_a_head(base: Policy, rewards: RewardModel) -> None:
    tensors = load_file(rewards.path / TENSORS)
    assert tensors["score.weight"].shape == (1, 32)
    assert len(tensors) == 2 * 2 * len(ALL) + 1
    config = json.loads((rewards.path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert rewards.base is base


def test_it_learns_pairs_and_scores_as_the_merged_model_does(rewards: RewardModel, tmp_path: Path) -> None:
    good, bad = rewards.open().score(ASKED, ["the fish good", "the fish bad"], [None, None])
    assert good > bad + 0.5  # type: ignore[operator]
    whole = merge([rewards], Workspace(tmp_path))
    assert whole.open().score(ASKED, ["the fish good", "the fish bad"], [None, None]) == pytest.approx(
        [good, bad], abs=1e-4
    )
    half = rewards.open("bfloat16").score(ASKED, ["the fish good", "the fish bad"], [None, None])
    assert half == pytest.approx([good, bad], abs=0.1)


def test_a_reward_model_goes_on_from_a_policys_adapter(
    base: Policy, adapted: Policy, pairs: Table, tmp_path: Path
) -> None:
    found = fit_reward(adapted, pairs, Workspace(tmp_path), loss=BT, lr=1e-3, batch=12, adapter=lora())
    assert found.base is base
    one, other = (load_file(p.path / TENSORS) for p in (adapted, found))
    assert 0 < max(float((one[n] - other[n]).abs().max()) for n in one) < 0.1


@pytest.mark.slow
def test_a_whole_reward_model_is_a_base_whose_head_goes_on(base: Policy, pairs: Table, tmp_path: Path) -> None:
    whole = fit_reward(base, pairs, Workspace(tmp_path / "whole"), loss=BT, lr=1e-3, batch=12)
    found = fit_reward(whole, pairs, Workspace(tmp_path / "more"), loss=BT, lr=1e-4, batch=12, adapter=lora())
    before = load_file(whole.path / "model.safetensors")["score.weight"]
    assert 0 < float((load_file(found.path / TENSORS)["score.weight"] - before).abs().max()) < 1e-3


def test_an_adapter_of_a_reward_model_without_its_head_is_refused(rewards: RewardModel, tmp_path: Path) -> None:
    shutil.copytree(rewards.path, tmp_path / "headless")
    tensors = load_file(rewards.path / TENSORS)
    del tensors["score.weight"]
    save_file(tensors, tmp_path / "headless" / TENSORS)
    with pytest.raises(DataError, match=r"score\.weight is missing"):
        open_reward_model(RewardModel(tmp_path / "headless", base=rewards.base), torch.float32)
