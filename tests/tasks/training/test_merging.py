"""Models of several models: means, arcs, what is refused."""

import gc
import math
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tasks.training.merging as merging
from tasks.adapt import merge, renew
from tasks.contract import DataError, SpecError
from tasks.kinds import Policy, RewardModel
from tasks.training.adapters import merge_layers
from tasks.training.heads import Attribute, attributes_of, write_attributes
from tasks.training.merging import slerp
from tasks.training.merging_checks import shares
from tasks.training.reward import open_reward_model, save_reward_model
from tests.adapters import adapted_model, adapter_policy
from tests.models import tiny_policy
from tests.workspace import Workspace


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[Policy]:
    """Three policies of one tokenizer with different weights."""
    return [tiny_policy(tmp_path_factory.mktemp(f"seed{seed}"), seed=seed) for seed in range(3)]


def weights(policy: Any) -> dict[str, torch.Tensor]:
    return load_file(policy.path / "model.safetensors")


def test_the_mean_of_three_is_the_weighted_mean_of_every_tensor(policies: list[Policy], tmp_path: Path) -> None:
    found = weights(merge(policies, Workspace(tmp_path), weights=[2.0, 1.0, 1.0]))
    one, two, three = map(weights, policies)
    assert found.keys() == one.keys()
    for name, tensor in found.items():
        expected = 0.5 * one[name].double() + 0.25 * two[name].double() + 0.25 * three[name].double()
        torch.testing.assert_close(tensor.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("given", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
def test_a_share_of_one_changes_no_bit(policies: list[Policy], given: list[float], tmp_path: Path) -> None:
    found, expected = weights(merge(policies, Workspace(tmp_path), weights=given)), weights(policies[given.index(1.0)])
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_equal_models_have_themselves_as_mean_to_the_bit(policies: list[Policy], tmp_path: Path) -> None:
    found = weights(merge([policies[0]] * 3, Workspace(tmp_path), weights=[0.1, 0.3, 0.7]))
    assert all(torch.equal(found[name], tensor) for name, tensor in weights(policies[0]).items())


def test_a_negative_weight_moves_away_from_its_model(policies: list[Policy], tmp_path: Path) -> None:
    found = weights(merge(policies[:2], Workspace(tmp_path), weights=[-0.5, 1.5]))
    one, two = map(weights, policies[:2])
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, 1.5 * two[name] - 0.5 * one[name], atol=1e-5, rtol=1e-5)


def test_adapters_of_one_base_are_added_to_it_before_they_are_averaged(policies: list[Policy], tmp_path: Path) -> None:
    base = policies[0]
    adapters = [adapter_policy(base, tmp_path / str(seed), seed) for seed in (1, 2)]
    found = weights(merge(adapters, Workspace(tmp_path / "merge"), weights=[3.0, 1.0]))
    whole = [adapted_model(base, seed) for seed in (1, 2)]
    for model in whole:
        merge_layers(model)
    one, two = (dict(model.named_parameters()) for model in whole)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, 0.75 * one[name] + 0.25 * two[name], atol=1e-5, rtol=1e-5)
    assert (found["model.layers.0.mlp.up_proj.weight"] - weights(base)["model.layers.0.mlp.up_proj.weight"]).norm() > 1


def test_reward_models_are_averaged_with_their_heads(policies: list[Policy], tmp_path: Path) -> None:
    """Averaged reward models, as WARM has them."""
    models = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        save_reward_model(open_reward_model(policies[seed], torch.float32, seed), policies[seed], folder)
        models.append(RewardModel(folder))
    found = merge(models, Workspace(tmp_path / "merge"))
    assert isinstance(found, RewardModel)
    one, two = map(weights, models)
    torch.testing.assert_close(weights(found)["score.weight"], (one["score.weight"] + two["score.weight"]) / 2)
    [[score]] = [found.open().score([[{"role": "user", "content": "where"}]], ["the swan"], [None])]
    assert score is not None
    assert math.isfinite(score)


def test_reward_models_whose_outputs_have_other_units_are_refused(policies: list[Policy], tmp_path: Path) -> None:
    models = []
    for std in (1.0, 2.0):
        folder, attributes = tmp_path / str(std), [Attribute("help", 0.0, std)]
        folder.mkdir()
        model = open_reward_model(policies[0], torch.float32, attributes=attributes)
        save_reward_model(model, policies[0], folder)
        write_attributes(folder, attributes)
        models.append(RewardModel(folder))
    with pytest.raises(DataError, match="outputs of other names, means or standard deviations"):
        merge(models, Workspace(tmp_path / "merge"))
    found = merge([models[0]] * 2, Workspace(tmp_path / "same"))
    assert attributes_of(found.path) == attributes_of(models[0].path)


def test_half_way_between_two_directions_at_a_right_angle_is_the_middle_of_the_arc() -> None:
    east, north = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    torch.testing.assert_close(slerp(east, north, 0.5), torch.tensor([math.sqrt(2.0), math.sqrt(2.0)]))
    torch.testing.assert_close(slerp(east, north, 1 / 3), torch.tensor([math.sqrt(3.0), 1.0]))
    torch.testing.assert_close(slerp(east, 3 * east, 0.25), 1.5 * east)  # no arc
    torch.testing.assert_close(slerp(east, 0 * east, 0.25), 0.75 * east)
    torch.testing.assert_close(slerp(east, -east, 0.5), 0 * east)


def test_an_arc_about_the_base_is_that_of_the_differences(policies: list[Policy], tmp_path: Path) -> None:
    base, one, two = policies
    found = weights(merge([one, two], Workspace(tmp_path), base, weights=[1.0, 3.0], how="slerp"))
    name = "model.layers.1.mlp.down_proj.weight"
    start, a, b = (weights(policy)[name].double() for policy in policies)
    angle = math.acos(float(((a - start) * (b - start)).sum() / (a - start).norm() / (b - start).norm()))
    assert 0.5 < angle < 1.5
    expected = (math.sin(0.25 * angle) * (a - start) + math.sin(0.75 * angle) * (b - start)) / math.sin(angle) + start
    torch.testing.assert_close(found[name].double(), expected, atol=1e-5, rtol=1e-5)
    plain = weights(merge([one, two], Workspace(tmp_path / "plain"), weights=[1.0, 3.0], how="slerp"))
    assert (plain[name] - found[name]).abs().max() > 0.01


def test_the_ends_of_an_arc_are_the_models(policies: list[Policy], tmp_path: Path) -> None:
    base, one, two = policies
    found = weights(merge([one, two], Workspace(tmp_path), base, weights=[0.0, 1.0], how="slerp"))
    for name, tensor in weights(two).items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6)


def test_at_most_two_models_are_in_memory(
    policies: list[Policy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    def opening(source: Policy) -> Any:
        nonlocal most
        model = original(source)
        alive.add(model)
        gc.collect()
        most = max(most, len(alive))
        return model

    original = merging.open_merged
    monkeypatch.setattr(merging, "open_merged", opening)
    merge([*policies, *policies], Workspace(tmp_path))
    assert most == 2


def test_models_that_do_not_fit_are_refused_with_both_places(policies: list[Policy], tmp_path: Path) -> None:
    one, two = policies[:2]
    wide = tiny_policy(tmp_path / "wide", hidden=64)
    with pytest.raises(DataError, match=r"(?s)is \(.*\) in .* and \(.*\) in .*only models of one shape"):
        merge([one, wide], Workspace(tmp_path / "1"))
    deep = tiny_policy(tmp_path / "deep", layers=3)
    with pytest.raises(DataError, match=r"deep has the weights model\.layers\.2\..*, and .* has not"):
        merge([one, deep], Workspace(tmp_path / "2"))
    other = Policy(tmp_path / "other")
    shutil.copytree(two.path, other.path)
    template = other.path / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(DataError, match="different tokenizers, chat templates or stop tokens"):
        merge([one, other], Workspace(tmp_path / "3"))
    with pytest.raises(DataError, match="is a whole model: nothing to merge"):
        merge([one], Workspace(tmp_path / "4"))
    with pytest.raises(SpecError, match="a linear mean needs none"):
        merge([one, two], Workspace(tmp_path / "5"), one)


@pytest.mark.parametrize(("given", "match"), [
    ([1.0], "has 1 numbers for 2 models"), ([0.0, 0.0], "sum above 0"), ([1.0, -1.0], "sum above 0"),
    ([1.0, math.nan], "must be finite"), ([math.inf, 1.0], "must be finite"),
])  # fmt: skip
def test_unsuitable_weights_are_refused(given: list[float], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        shares(given, 2)


def test_weights_count_by_their_share() -> None:
    assert shares([3, 1], 2) == [0.75, 0.25]
    assert shares(None, 4) == [0.25] * 4


@pytest.mark.parametrize(("index", "moved"), [(1, False), (2, False), (3, False), (4, True), (5, False), (7, True)])
def test_an_anchor_is_renewed_behind_every_third_round(policies: list[Policy], index: int, moved: bool) -> None:
    current, fresh = policies[:2]
    assert renew(current, fresh, every=3, index=index).path == (fresh if moved else current).path
