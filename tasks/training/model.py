"""Opening a policy for training or scoring, and saving it with new weights."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from tasks.contract import DataError
from tasks.kinds import ADAPTER, Model, Policy
from tasks.training.adapters import adapter_in, in_adapter, leave_casts_to_autocast, read_layers, save_adapter
from tasks.training.attention import attention_of, check_attention
from tasks.training.device import Device
from tasks.training.packing import PackingConfig
from tasks.training.spans import NAME as SPANS
from tasks.training.split import REST, add_rest, save_rest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".safetensors.index.json", ".bin.index.json")
SPAN_SECONDS = 3e-4
"""Time that a CPU needs for one more call of attention in a layer, forward and backward."""
_ACTIVATIONS = 2_000_000
"""200 MB over about 100 bytes per token, layer and channel, in float32."""


def is_same(one: Model, other: Model) -> bool:
    """Whether two handles are of one model: by content where both are in a store, else by folder."""
    if one.digest and other.digest:
        return one.digest == other.digest
    return one.path.resolve() == other.path.resolve()


def open_model(policy: Model, dtype: torch.dtype) -> Any:
    """The policy as a transformers model without dropout, in `dtype`, on the CPU; in float32 with what `state/` adds.

    An adapter is its base, frozen and in `dtype`, with layers in float32. Raises DataError if the model is missing, or
    its attention differs from transformers' eager one.
    """
    model = _open_whole(policy.whole, dtype)
    if policy.adapter is not None:
        read_layers(model, policy)
    return model


def _open_whole(policy: Model, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (policy.path / "config.json").exists():
        raise DataError(f"{policy.path} is not a Hugging Face model directory: config.json is missing")
    config = AutoConfig.from_pretrained(policy.path, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        policy.path, dtype=dtype, attn_implementation=attention_of(config), local_files_only=True
    ).eval()
    if dtype == torch.float32:
        add_rest(model, policy)
    check_attention(model, policy, lambda ids: model(input_ids=ids, use_cache=False).logits.log_softmax(-1))
    return model


def model_without_weights(policy: Model) -> Any:
    """The policy as a transformers model whose parameters have shapes and no values, which takes no memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(policy.path, local_files_only=True)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def open_frozen(source: Model, opening: Callable[[torch.dtype], Any], weight_dtype: str, *, half: bool) -> Any:
    """A model whose weights do not learn, but for an adapter, in the types that a training computes with.

    Stored bfloat16 weights are read as such, so that an 8B needs no 32 GB of the machine.

    Args:
        opening: opens it in a type.
        weight_dtype: bfloat16: all weights are, adapters excepted. float32: those of products are if `half`.
        half: whether bodies compute in bfloat16.
    """
    if weight_dtype == "float32" and not half:
        return opening(torch.float32)
    model = opening(torch.bfloat16 if _is_stored_half(source.whole) else torch.float32)
    (halve_weights if weight_dtype == "bfloat16" else halve_products)(model)
    if half:
        leave_casts_to_autocast(model)
    return model


def _is_stored_half(source: Model) -> bool:
    """Whether all weights are stored in bfloat16, and nothing in `state/` adds to them."""
    if (source.path / REST).exists():
        return False
    for file in source.path.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            if any(weights.get_slice(name).get_dtype() != "BF16" for name in weights.keys()):  # noqa: SIM118
                return False
    return True


def halve_products(model: Any) -> None:
    """Keep the weights of a frozen model's products in bfloat16: under autocast it computes the same bits as before.

    Norms, adapters and the embedding, also where that is the head, are float32.
    """
    embedding = model.get_input_embeddings().weight
    products = {
        parameter for name, layer in model.named_modules() for parameter in layer.parameters(recurse=False)
        if isinstance(layer, nn.Linear) and layer.weight is not embedding and not in_adapter(name)
    }  # fmt: skip
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16 if parameter in products else torch.float32)


def halve_weights(model: Any) -> None:
    """Make all parameters bfloat16; adapters, and buffers such as the frequencies of positions, stay as they are."""
    for name, parameter in model.named_parameters():
        if not in_adapter(name):
            parameter.data = parameter.data.to(torch.bfloat16)


def positions_of(policy: Model) -> int | None:
    """Maximum length of a sequence, in tokens; None if config.json does not specify it."""
    config = text_config(policy)
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    return None if positions is None else int(positions)


def vocabulary_of(policy: Model) -> int:
    """Number of rows of the policy's embedding, including ids without a text."""
    return int(text_config(policy)["vocab_size"])


def text_config(policy: Model) -> dict[str, Any]:
    """config.json, or the part for the language model in a multimodal model."""
    config: dict[str, Any] = json.loads((policy.path / "config.json").read_text())
    inner: dict[str, Any] = config.get("text_config") or config
    return inner


def stored_dtype(policy: Model) -> torch.dtype:
    """Type of the policy's stored weights, by its config.json."""
    config = json.loads((policy.path / "config.json").read_text())
    return DTYPES.get(config.get("dtype") or config.get("torch_dtype") or "float32", torch.float32)


def save_model(model: Any, source: Policy, directory: Path, dtype: str = "float32") -> None:
    """Write `model` into `directory`: its weights, and everything else (tokenizer, configuration) from `source`.

    Of a model with an adapter, that alone, as float32. dtype: of the weights in the files; `model` itself is cast to
    it. `split`: bfloat16, and the rest in `state/`.
    """
    if adapter_in(model):
        save_adapter(model, source.whole, directory)
        copy_files(source, directory)
        return
    if dtype == "split":
        save_rest(model, directory)
        dtype = "bfloat16"
    model.to(DTYPES[dtype]).save_pretrained(directory)
    copy_files(source, directory)
    if stored_dtype(source) != DTYPES[dtype]:
        _set_dtype(directory / "config.json", dtype)


def copy_files(source: Model, directory: Path, *but: str) -> None:
    """Copy a model's files into `directory`: tokenizer, template, configurations, all but its weights and `but`."""
    for file in sorted(source.path.iterdir()):
        if file.is_file() and not file.name.endswith(WEIGHTS) and file.name not in (ADAPTER, *but):
            shutil.copyfile(file, directory / file.name)


def _set_dtype(file: Path, dtype: str) -> None:
    config = json.loads(file.read_text())
    config.pop("torch_dtype", None)
    file.write_text(json.dumps({**config, "dtype": dtype}, indent=2, sort_keys=True) + "\n")


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def packing_for(model: Any, device: Device, max_tokens_per_microbatch: int) -> PackingConfig:
    """The packing for this model where it computes on `device`, wherever it lies now.

    max_tokens_per_microbatch: 0: on a CPU as many as need about 200 MB of activations, on a GPU 8,192, and 2,048 with
    eager attention, which stores every pair of a row's tokens.
    """
    config = model.config.get_text_config()
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    on_gpu = 2048 if model.config._attn_implementation == "eager" else 8192
    fitting = on_gpu if device.is_gpu else max(256, _ACTIVATIONS // (width * layers))
    share = can_share_prompts(model)
    spans = share and model.config._attn_implementation in (None, "sdpa", SPANS)
    return PackingConfig(
        max_tokens_per_microbatch or fitting, width, share, device.pass_seconds * device.flops / 12,
        _span_cost(device) if spans else None,
    )  # fmt: skip


def _span_cost(device: Device) -> float | None:
    """Of attention answer by answer, as in `PackingConfig`; None where a mask is the only fast way."""
    if device.is_gpu:
        return 0.0 if device.has_flash_attention else None
    return SPAN_SECONDS * device.flops / 12


def keep_memory() -> None:
    """Make glibc keep freed memory instead of returning it after every tensor, for the whole process.

    This saves a fifth of the time of a CPU step.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, 1 << 30)


def can_share_prompts(model: Any) -> bool:
    """Whether a segment may contain several answers: full attention in all layers, and rotary positions."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    rotary = (
        getattr(config, "rope_parameters", None)
        or getattr(config, "rope_scaling", None)
        or hasattr(config, "rope_theta")
    )
    return bool(rotary) and not sliding and set(layers) == {"full_attention"}
