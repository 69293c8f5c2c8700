"""Adapters as peft stores them: adapter_config.json and adapter_model.safetensors.

What a configuration says is either followed or refused: an adapter that is read computes what peft computes with it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.contract import DataError
from tasks.kinds import ADAPTER, Model

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""Of a tensor's name: peft's wrapper and the model in it."""
_REFUSED = {
    "use_dora": "DoRA scales whole columns of weights",
    "modules_to_save": "whole modules are trained beside the adapter",
    "lora_bias": "its matrices have biases",
    "rank_pattern": "its layers have different ranks",
    "alpha_pattern": "its layers have different scales",
    "layer_replication": "layers of the base are repeated",
    "trainable_token_indices": "rows of the embedding are trained",
    "target_parameters": "parameters that belong to no linear layer are adapted",
    "alora_invocation_tokens": "it is active behind some tokens only",
    "use_qalora": "it pools what layers read",
    "use_bdlora": "its matrices are block-diagonal",
    "arrow_config": "it routes between adapters",
    "velora_config": "it is not plain LoRA",
    "monteclora_config": "it is not plain LoRA",
    "kasa_config": "it is not plain LoRA",
    "corda_config": "it was made together with changed weights of the base",
    "lora_ga_config": "it was made together with changed weights of the base",
    "loftq_config": "it was made together with changed weights of the base",
}
"""Settings that make an adapter compute something else, with the reason why they are refused."""
_KNOWN = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora",
    "init_lora_weights", "layers_to_transform", "layers_pattern", "megatron_config", "megatron_core", "eva_config",
    "qalora_group_size", "ensure_weight_tying", "runtime_config",
}  # fmt: skip
"""Settings that are followed, or that change nothing once an adapter is trained."""
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""`init_lora_weights` that leave the weights of the base as they are."""


class PeftSettings(NamedTuple):
    """What of an adapter_config.json decides the numbers."""

    rank: int
    alpha: float
    """What a layer adds is scaled by alpha / rank."""
    base: str
    """The model that it was made for, as peft calls it; empty where it does not say."""


def read_settings(path: Path) -> PeftSettings:
    """Raises DataError for a directory that is not a LoRA adapter of a language model, or that needs what is not
    supported here."""
    config = _read(path / CONFIG)
    if not (path / TENSORS).exists():
        pickle = "; adapter_model.bin is a pickle, which may run code: convert it with safetensors"
        raise DataError(f"{path} has no {TENSORS}{pickle if (path / 'adapter_model.bin').exists() else ''}")
    if config.get("peft_type") != "LORA" or config.get("task_type") not in (None, "CAUSAL_LM"):
        kind = f"{config.get('peft_type')} for {config.get('task_type') or 'any task'}"
        raise DataError(f"{path / CONFIG} describes an adapter of the type {kind}; LORA for CAUSAL_LM can be read")
    for name, value in config.items():
        if value and name not in _KNOWN:
            raise _unsupported(path, name, value, _REFUSED.get(name, "this setting is not known here"))
    if config.get("bias", "none") != "none":
        raise _unsupported(path, "bias", config["bias"], "biases of the base are trained")
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise _unsupported(path, "init_lora_weights", start, "this start changes the weights of the base")
    rank = int(config["r"])
    scale = rank**0.5 if config.get("use_rslora") else 1.0  # rank-stabilised: alpha / √rank
    return PeftSettings(rank, float(config["lora_alpha"]) * scale, str(config.get("base_model_name_or_path") or ""))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The adapter's matrices in float32, by the names of the modules of a transformers model. Raises DataError."""
    from safetensors.torch import load_file

    tensors = {}
    for name, tensor in load_file(path / TENSORS).items():
        if not name.startswith(_PREFIX) or not name.endswith((".lora_A.weight", ".lora_B.weight")):
            raise DataError(
                f"{path / TENSORS} has the tensor {name}, which is not a matrix of a linear layer's adapter; merge it "
                "with peft"
            )
        tensors[name.removeprefix(_PREFIX)] = tensor.float()
    return tensors


def write_peft_directory(source: Model, directory: Path, base: str = "") -> None:
    """Write an adapter as peft stores it into `directory`, with its tokenizer: `PeftModel.from_pretrained` opens it.

    base: the name or path of its base, for those who open it without one.
    """
    from safetensors.torch import load_file, save_file

    from tasks.training.adapters import TENSORS as OWN

    content = source.adapter
    if content is None:
        raise DataError(f"{source.path} is a whole model, not an adapter")
    tensors = load_file(source.path / OWN)
    head = sorted({name.partition(".")[0] for name in tensors if "lora_" not in name})
    config = {
        "peft_type": "LORA", "task_type": "SEQ_CLS" if head else "CAUSAL_LM", "r": content["rank"],
        "lora_alpha": content["alpha"], "target_modules": content["targets"], "modules_to_save": head or None,
        "base_model_name_or_path": base or None, "bias": "none", "lora_dropout": 0.0, "inference_mode": True,
    }  # fmt: skip
    save_file({_PREFIX + name: tensor for name, tensor in tensors.items()}, directory / TENSORS, {"format": "pt"})
    (directory / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for file in sorted(source.path.iterdir()):
        if file.is_file() and file.suffix != ".safetensors" and file.name not in (ADAPTER, "config.json"):
            shutil.copyfile(file, directory / file.name)


def _unsupported(path: Path, name: str, value: Any, why: str) -> DataError:
    return DataError(
        f"{path / CONFIG} has {name}: {json.dumps(value)}, which is not supported: {why}. Merge the adapter with peft "
        "(merge_and_unload) and use the whole model"
    )


def _read(file: Path) -> Mapping[str, Any]:
    if not file.exists():
        raise DataError(f"{file.parent} is not an adapter as peft stores it: {file.name} is missing")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise DataError(f"{file} is not valid JSON: {e}") from None
    if not isinstance(found, dict) or not {"r", "lora_alpha"} <= found.keys():
        raise DataError(f"{file} is not the configuration of a LoRA adapter: r or lora_alpha is missing")
    return found
