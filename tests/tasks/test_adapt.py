"""Adapters as peft stores them: read as peft computes them, refused where that is not supported, written for peft."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tasks.adapt import load_adapter, merge
from tasks.contract import Chosen, DataError
from tasks.formats.peft_files import CONFIG, TENSORS, write_peft_directory
from tasks.kinds import Policy
from tasks.training.model import open_model
from tasks.training.reward import open_reward_model
from tests.flat import fit, fit_reward
from tests.models import tiny_policy
from tests.tasks.training.tables import SFT, demonstrations, preferences, tokenized
from tests.workspace import Workspace

IDS = torch.arange(9)[None] + 20
LORA = Chosen("adapters", "lora", {"rank": 4, "alpha": 8.0, "targets": ["all-linear"]})


def local(path: Path) -> Chosen:
    return Chosen("sources", "path", {"path": str(path)})


def of_peft(policy: Policy, folder: Path, **settings: Any) -> torch.Tensor:
    """Write an adapter with random matrices by peft alone; returns its logits."""
    model = AutoModelForCausalLM.from_pretrained(policy.path).eval()
    given = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **settings}
    adapted = get_peft_model(model, LoraConfig(**given)).eval()
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    with torch.no_grad():
        logits: torch.Tensor = adapted(IDS).logits
    return logits


def logits_of(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = open_model(policy, torch.float32)(IDS).logits
    return logits


def edit(folder: Path, **settings: Any) -> None:
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@pytest.fixture
def peft_folder(policy: Policy, tmp_path: Path) -> Path:
    of_peft(policy, tmp_path / "peft")
    return tmp_path / "peft"


@pytest.mark.parametrize("settings", [
    {}, {"use_rslora": True}, {"target_modules": "all-linear"}, {"layers_to_transform": [1]},
    {"target_modules": r".*layers\.0.*v_proj"},
])  # fmt: skip
def test_an_adapter_of_peft_computes_here_what_it_computes_there(
    policy: Policy, settings: dict[str, Any], tmp_path: Path
) -> None:
    expected = of_peft(policy, tmp_path / "peft", **settings)
    work = Workspace(tmp_path)
    loaded = load_adapter(policy, work, source=local(tmp_path / "peft"))
    assert (logits_of(loaded) - logits_of(policy)).abs().max() > 0.1
    torch.testing.assert_close(logits_of(loaded), expected, atol=1e-6, rtol=1e-6)
    assert loaded.base is policy
    assert "says that its base is" in work.notices[0]


def test_it_goes_on_in_a_training_and_merges(policy: Policy, peft_folder: Path, tmp_path: Path) -> None:
    loaded = load_adapter(policy, Workspace(tmp_path / "load"), source=local(peft_folder))
    torch.testing.assert_close(
        logits_of(merge([loaded], Workspace(tmp_path / "merge"))), logits_of(loaded), atol=1e-4, rtol=1e-5
    )
    data = tokenized(demonstrations(8), policy, tmp_path)
    same = Chosen("adapters", "lora", {"rank": 3, "alpha": 5.0, "targets": ["q_proj", "down_proj"]})
    found = fit(loaded, data, Workspace(tmp_path / "fit"), loss=SFT, lr=1e-3, batch=8, adapter=same)
    assert found.base is policy


@pytest.mark.parametrize(("settings", "match"), [
    ({"use_dora": True}, "use_dora: true, which is not supported: DoRA .* Merge the adapter with peft"),
    ({"modules_to_save": ["lm_head"]}, r"modules_to_save: \["),
    ({"bias": "all"}, "biases of the base"),
    ({"lora_bias": True}, "matrices have biases"),
    ({"rank_pattern": {"q_proj": 2}}, "different ranks"),
    ({"alpha_pattern": {"q_proj": 2}}, "different scales"),
    ({"init_lora_weights": "pissa"}, "changes the weights of the base"),
    ({"peft_type": "IA3"}, "of the type IA3 for CAUSAL_LM; LORA for CAUSAL_LM can be read"),
    ({"task_type": "SEQ_CLS"}, "LORA for SEQ_CLS"),
    ({"of_tomorrow": 1}, "of_tomorrow: 1, which is not supported: this setting is not known here"),
])  # fmt: skip
def test_what_would_compute_something_else_is_refused(
    policy: Policy, peft_folder: Path, settings: dict[str, Any], match: str, tmp_path: Path
) -> None:
    edit(peft_folder, **settings)
    with pytest.raises(DataError, match=match):
        load_adapter(policy, Workspace(tmp_path), source=local(peft_folder))


def test_shapes_and_names_are_those_of_the_base(policy: Policy, peft_folder: Path, tmp_path: Path) -> None:
    wide = tiny_policy(tmp_path / "wide", hidden=64)
    with pytest.raises(DataError, match=r"does not fit LlamaForCausalLM: .* is \(3, 64\), and .* takes \(3, 128\)"):
        load_adapter(wide, Workspace(tmp_path), source=local(peft_folder))
    shallow = tiny_policy(tmp_path / "shallow", layers=1)
    with pytest.raises(DataError, match=r"adapts model\.layers\.1\.mlp\.down_proj, which is no linear layer"):
        load_adapter(shallow, Workspace(tmp_path), source=local(peft_folder))
    tensors = load_file(peft_folder / TENSORS)
    save_file({n: t for n, t in tensors.items() if "layers.0.mlp.down_proj.lora_B" not in n}, peft_folder / TENSORS)
    with pytest.raises(DataError, match=r"model\.layers\.0\.mlp\.down_proj\.lora_B\.weight is missing"):
        load_adapter(policy, Workspace(tmp_path), source=local(peft_folder))


def test_an_adapter_of_the_head_is_refused(policy: Policy, tmp_path: Path) -> None:
    """peft stores the head's own weights then; without them it is refused all the same."""
    folder = tmp_path / "peft"
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        of_peft(policy, folder, target_modules=["lm_head", "q_proj"])
    with pytest.raises(
        DataError, match=r"the tensor base_model\.model\.lm_head\.base_layer\.weight, which is not a matrix"
    ):
        load_adapter(policy, Workspace(tmp_path), source=local(folder))
    save_file({n: t for n, t in load_file(folder / TENSORS).items() if "lora_" in n}, folder / TENSORS)
    with pytest.raises(DataError, match=r"adapts lm_head, which is no linear layer in the body"):
        load_adapter(policy, Workspace(tmp_path), source=local(folder))


def test_weights_beside_the_matrices_are_refused(policy: Policy, peft_folder: Path, tmp_path: Path) -> None:
    tensors = load_file(peft_folder / TENSORS)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(2, 2)}, peft_folder / TENSORS)
    with pytest.raises(DataError, match=r"the tensor base_model\.model\.lm_head\.weight"):
        load_adapter(policy, Workspace(tmp_path), source=local(peft_folder))


def test_an_incomplete_directory_is_refused(policy: Policy, peft_folder: Path, tmp_path: Path) -> None:
    (peft_folder / TENSORS).rename(peft_folder / "adapter_model.bin")
    with pytest.raises(DataError, match=r"adapter_model\.bin is a pickle"):
        load_adapter(policy, Workspace(tmp_path), source=local(peft_folder))
    with pytest.raises(DataError, match=r"not an adapter as peft stores it: adapter_config\.json is missing"):
        load_adapter(policy, Workspace(tmp_path), source=local(policy.path))


def test_an_adapter_is_no_base(policy: Policy, peft_folder: Path, tmp_path: Path) -> None:
    loaded = load_adapter(policy, Workspace(tmp_path / "one"), source=local(peft_folder))
    with pytest.raises(DataError, match="is itself an adapter: `merge` it"):
        load_adapter(loaded, Workspace(tmp_path / "two"), source=local(peft_folder))


def test_peft_opens_what_is_written_for_it(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(demonstrations(8), policy, tmp_path)
    trained = fit(policy, data, Workspace(tmp_path / "fit"), loss=SFT, lr=1e-2, steps=5, batch=8, adapter=LORA)
    (tmp_path / "written").mkdir()
    write_peft_directory(trained, tmp_path / "written", "org/base")
    assert json.loads((tmp_path / "written" / CONFIG).read_text())["base_model_name_or_path"] == "org/base"
    assert not (tmp_path / "written" / "config.json").exists()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(policy.path), tmp_path / "written").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, logits_of(trained), atol=1e-6, rtol=1e-6)
    again = load_adapter(policy, Workspace(tmp_path / "again"), source=local(tmp_path / "written"))
    assert {p.name: p.read_bytes() for p in again.path.iterdir()} == {
        p.name: p.read_bytes() for p in trained.path.iterdir()
    }


def test_peft_opens_a_reward_model_with_its_head(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(preferences(8), policy, tmp_path)
    loss = Chosen("losses/reward", "bradley_terry", {})
    trained = fit_reward(policy, data, Workspace(tmp_path / "fit"), loss=loss, lr=1e-2, batch=8, adapter=LORA)
    (tmp_path / "written").mkdir()
    write_peft_directory(trained, tmp_path / "written")
    base = AutoModelForSequenceClassification.from_pretrained(policy.path, num_labels=1)
    model = PeftModel.from_pretrained(base, tmp_path / "written").eval()
    with torch.no_grad():
        expected = open_reward_model(trained, torch.float32)(IDS).logits
        torch.testing.assert_close(model(IDS).logits, expected, atol=1e-6, rtol=1e-6)


def test_a_whole_model_is_not_written_as_an_adapter(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a whole model, not an adapter"):
        write_peft_directory(policy, tmp_path)


def test_a_hidden_path_never_gets_into_what_is_written(policy: Policy, peft_folder: Path, tmp_path: Path) -> None:
    """peft writes the path of the base into its configuration."""
    shutil.copytree(policy.path, tmp_path / "elsewhere")
    assert str(policy.path) in (peft_folder / CONFIG).read_text()
    loaded = load_adapter(policy, Workspace(tmp_path), source=local(peft_folder))
    assert not [p.name for p in loaded.path.iterdir() if str(policy.path).encode() in p.read_bytes()]
