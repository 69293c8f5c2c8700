"""A model directory from outside: what it must hold, and how one comes from the hub."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.contract import DataError

_LONGEST_HEADER = 100_000_000
"""Bytes; what the safetensors library itself accepts."""


def check_model(path: Path) -> None:
    """Raises DataError unless `path` holds config, safetensors weights, tokenizer and chat template."""
    here = {p.name for p in path.iterdir()} if path.is_dir() else set()
    if "adapter_config.json" in here and "config.json" not in here:
        raise DataError(f"{path} is a LoRA adapter; merge it into its base model first (peft: merge_and_unload)")
    if "config.json" not in here:
        raise DataError(f"{path} is no Hugging Face model directory: it has no config.json")
    if not any(name.endswith(".safetensors") for name in here):
        pickles = sorted(n for n in here if n.endswith((".bin", ".pt", ".pth")))
        hint = f"; {pickles[0]} is a pickle, which may run code: convert it with safetensors" if pickles else ""
        raise DataError(f"{path} has no *.safetensors weights{hint}")
    for weights in sorted(path.glob("*.safetensors")):
        _check_whole(weights)
    if not here & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"}:
        raise DataError(f"{path} has no tokenizer (tokenizer.json or tokenizer.model)")
    config = path / "tokenizer_config.json"
    inside = config.exists() and json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    if not inside and "chat_template.jinja" not in here:
        raise DataError(f"{path} has no chat template: add chat_template.jinja, so that prompts can be rendered")


def _check_whole(file: Path) -> None:
    """Raises DataError where a safetensors file is not as long as its header says, as after a broken download."""
    with file.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        try:
            header = json.loads(f.read(min(length, _LONGEST_HEADER)))
            end = max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise DataError(f"{file} is no safetensors file, or was cut off") from None
    size = file.stat().st_size
    if size != 8 + length + end:
        raise DataError(f"{file} has {size} bytes and should have {8 + length + end}: get it again")


def download_model(repo: str, revision: str | None) -> Path:
    """A hub model's files in the local cache, downloaded if they are not there. No pickles, no code."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError) as e:
        raise DataError(f"the hub model '{repo}' cannot be had: {e}") from e
