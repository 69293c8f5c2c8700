"""The type that results are stored in."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tasks.contract import Chosen
from tasks.kinds import Policy
from tasks.training.model import open_model, save_model
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reward_model_is_stored_in_the_type_asked_for(dtype: str, policy: Policy, tmp_path: Path) -> None:
    data = tokenized(preferences(8), policy, tmp_path)
    loss = Chosen("losses/reward", "bradley_terry", {})
    made = fit_reward(policy, data, Workspace(tmp_path), loss=loss, lr=1e-3, batch=8, save_dtype=dtype)
    opened = AutoModelForSequenceClassification.from_pretrained(made.path)
    assert {str(p.dtype) for p in opened.parameters()} == {f"torch.{dtype}"}
