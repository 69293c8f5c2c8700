"""The type that results are stored in."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from tasks.contract import Chosen
from tasks.kinds import Policy
from tasks.training.memory import ModelShape
from tasks.training.model import halve_products, open_model, save_model
from tasks.training.reward import open_reward_model
from tasks.training.split import rest_of, with_rest
from tests.flat import fit, fit_reward
from tests.tasks.training.tables import SFT, demonstrations, preferences, tokenized
from tests.workspace import Workspace


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _stored(policy: Policy) -> tuple[str, set[torch.dtype]]:
    """Type of the weights as the configuration tells it, and those in the file."""
    with safe_open(policy.path / "model.safetensors", "pt") as file:
        types = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 - no mapping
    return json.loads((policy.path / "config.json").read_text())["dtype"], types


def _share_moved(a: Policy, b: Policy) -> float:
    """Share of the weights of the layers that differ between two policies."""
    one, other = (open_model(p, torch.float32).model.layers.state_dict() for p in (a, b))
    return float(torch.cat([(one[n] != other[n]).flatten() for n in one]).double().mean())


def test_a_half_precision_policy_keeps_small_updates_from_round_to_round(policy: Policy, tmp_path: Path) -> None:
    half = Policy(tmp_path / "half")
    save_model(open_model(policy, torch.float32), policy, _made(half.path), "bfloat16")
    assert _stored(half) == ("bfloat16", {torch.bfloat16})
    data = tokenized(demonstrations(8), half, tmp_path)
    options = {"loss": SFT, "lr": 1e-5, "warmup": 0.0, "batch": 8, "schedule": "constant"}
    kept = rounded = half
    for n in (1, 2):
        kept = fit(kept, data, Workspace(tmp_path / f"kept{n}"), **options)
        rounded = fit(rounded, data, Workspace(tmp_path / f"rounded{n}"), **options, save_dtype="bfloat16")
    assert _stored(kept) == ("float32", {torch.float32})
    assert _stored(rounded) == ("bfloat16", {torch.bfloat16})
    # AdamW moves a weight by about lr at each step. A weight of 0.02 in bfloat16 lies 0.0001 from the next.
    assert _share_moved(half, kept) > 0.9
    assert _share_moved(half, rounded) < 0.2
    own = open_model(kept, torch.float32).state_dict()
    opened = AutoModelForCausalLM.from_pretrained(kept.path).state_dict()
    assert all(torch.equal(own[n], opened[n]) for n in own)
    assert opened["lm_head.weight"].dtype == torch.float32


def test_weights_are_split_into_a_half_for_samplers_and_a_rest_for_trainings() -> None:
    """1 + 2⁻⁹ lies between 1 and 1 + 2⁻⁷; ties, and what rounds up, have a negative rest."""
    step = 2.0**-7
    weights = torch.tensor([1.0, 1 + step / 4, 1 + 3 * step / 4, -1 - step / 4, 0.0, 1e-20, 1 + 1.5 * step])
    half, rest = weights.to(torch.bfloat16), rest_of(weights)
    assert half.float().tolist()[:5] == [1.0, 1.0, 1 + step, -1.0, 0.0]
    assert rest.tolist()[:5] == [0, 2**14, -(2**14), 2**14, 0]
    assert torch.equal(with_rest(half.float(), rest), weights)
    many = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    moved = with_rest(many.to(torch.bfloat16).float(), rest_of(many)).view(torch.int32) - many.view(torch.int32)
    assert int(moved.abs().max()) <= 1
    assert int((moved != 0).sum()) < 10  # one in 131,072 is a tie that is rounded down


def test_a_tie_that_is_rounded_down_loses_a_unit_in_the_last_place() -> None:
    tie = torch.tensor([1 + 2.0**-8])
    assert tie.to(torch.bfloat16) == 1
    back = with_rest(torch.tensor([1.0]), rest_of(tie))
    assert float(back) == float(tie) - 2.0**-23
    assert back.to(torch.bfloat16) == 1


def test_a_split_policy_trains_on_as_a_float32_one_and_serves_its_half(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(demonstrations(8), policy, tmp_path)
    options = {"loss": SFT, "lr": 1e-4, "batch": 8, "warmup": 0.0}
    ends = []
    for dtype in ("float32", "split"):
        first = fit(policy, data, Workspace(tmp_path / f"{dtype}1"), **options, save_dtype=dtype)
        ends.append(fit(first, data, Workspace(tmp_path / f"{dtype}2"), **options, save_dtype=dtype))
    own, split = (open_model(end, torch.float32).state_dict() for end in ends)
    for name, weight in own.items():
        assert float((weight - split[name]).abs().max()) <= 2e-7, name
    assert _stored(ends[1]) == ("bfloat16", {torch.bfloat16})
    served = AutoModelForCausalLM.from_pretrained(ends[1].path).state_dict()
    assert all(torch.equal(served[n], own[n].to(torch.bfloat16)) for n in own)


def test_a_split_reward_model_is_opened_whole_for_training(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(preferences(8), policy, tmp_path)
    loss = Chosen("losses/reward", "bradley_terry", {})
    made = [
        fit_reward(policy, data, Workspace(tmp_path / d), loss=loss, lr=1e-4, batch=8, save_dtype=d)
        for d in ("float32", "split")
    ]
    own, split = (open_reward_model(m, torch.float32).state_dict() for m in made)
    assert all(float((own[n] - split[n]).abs().max()) <= 2e-7 for n in own)


def test_tied_embeddings_are_stored_once_stay_tied_and_are_counted_once(policy: Policy, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(policy.path)
    config.tie_word_embeddings = True
    tied = Policy(tmp_path / "tied")
    save_model(AutoModelForCausalLM.from_config(config), policy, _made(tied.path))
    (tied.path / "config.json").write_text(json.dumps({**config.to_dict(), "tie_word_embeddings": True}))
    data = tokenized(demonstrations(8), tied, tmp_path)
    for weights, save in (("float32", "float32"), ("bfloat16", "split")):
        work = Workspace(tmp_path / save)
        made = fit(tied, data, work, loss=SFT, lr=1e-3, batch=8, weight_dtype=weights, save_dtype=save)
        with safe_open(made.path / "model.safetensors", "pt") as file:
            assert "lm_head.weight" not in file.keys()  # noqa: SIM118 - no mapping
        model = open_model(made, torch.float32)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert not torch.equal(model.lm_head.weight, open_model(tied, torch.float32).lm_head.weight)
        shape = ModelShape.of(json.loads((made.path / "config.json").read_text()))
        assert shape
        assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_halved_products_compute_the_same_bits_under_autocast(policy: Policy) -> None:
    model = open_model(policy, torch.float32)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        own = model(ids).logits
        halve_products(model)
        assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
        assert model.model.embed_tokens.weight.dtype == torch.float32
        assert torch.equal(model(ids).logits, own)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reward_model_is_stored_in_the_type_asked_for(dtype: str, policy: Policy, tmp_path: Path) -> None:
    data = tokenized(preferences(8), policy, tmp_path)
    loss = Chosen("losses/reward", "bradley_terry", {})
    made = fit_reward(policy, data, Workspace(tmp_path), loss=loss, lr=1e-3, batch=8, save_dtype=dtype)
    opened = AutoModelForSequenceClassification.from_pretrained(made.path)
    assert {str(p.dtype) for p in opened.parameters()} == {f"torch.{dtype}"}
