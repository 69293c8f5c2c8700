"""A model directory from outside: what it must hold, and how one comes from the hub."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.contract import DataError


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
    if not here & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"}:
        raise DataError(f"{path} has no tokenizer (tokenizer.json or tokenizer.model)")
    config = path / "tokenizer_config.json"
    inside = config.exists() and json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    if not inside and "chat_template.jinja" not in here:
        raise DataError(f"{path} has no chat template: add chat_template.jinja, so that prompts can be rendered")


def download_model(repo: str, revision: str | None) -> Path:
    """A hub model's files in the local cache, downloaded if they are not there. No pickles, no code."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError) as e:
        raise DataError(f"the hub model '{repo}' cannot be had: {e}") from e
