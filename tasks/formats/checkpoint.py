"""A model directory from outside: what it must hold, and how one comes from the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.contract import DataError

_LONGEST_HEADER = 100_000_000
"""Bytes; what the safetensors library itself accepts."""


def check_model(path: Path) -> None:
    """Raises DataError unless `path` is a whole checkpoint that can be prompted: files, chat template, end of sequence.

    Reads JSON files and the headers of safetensors files, so it costs well under a second whatever the model's size.
    """
    check_files(path)
    if not (path / "chat_template.jinja").exists() and not _read(path / "tokenizer_config.json").get("chat_template"):
        raise DataError(f"{path} has no chat template: add chat_template.jinja, so that prompts can be rendered")
    settings = ("tokenizer_config.json", "special_tokens_map.json"), ("generation_config.json", "config.json")
    named = any(_read(path / name).get("eos_token") for name in settings[0])
    if not named and all(_read(path / name).get("eos_token_id") is None for name in settings[1]):
        raise DataError(
            f"{path} has no end-of-sequence token, so that no answer could end: set eos_token in "
            "tokenizer_config.json, or eos_token_id in generation_config.json"
        )


def check_files(path: Path) -> None:
    """Raises DataError unless `path` holds config, whole safetensors weights and a tokenizer that fits them."""
    here = {p.name for p in path.iterdir()} if path.is_dir() else set()
    if "adapter_config.json" in here:
        base = _read(path / "adapter_config.json").get("base_model_name_or_path") or "its base model"
        raise DataError(
            f"{path} is a LoRA adapter of {base}, which is not opened here: merge it (peft: "
            "AutoPeftModelForCausalLM.from_pretrained(…).merge_and_unload().save_pretrained(…)), save the tokenizer "
            "beside it, and give that directory"
        )
    if "config.json" not in here:
        raise DataError(f"{path} is no Hugging Face model directory: it has no config.json")
    if not any(name.endswith(".safetensors") for name in here):
        pickles = sorted(n for n in here if n.endswith((".bin", ".pt", ".pth")))
        hint = f"; {pickles[0]} is a pickle, which may run code: convert it with safetensors" if pickles else ""
        raise DataError(f"{path} has no *.safetensors weights{hint}")
    for weights in sorted(path.glob("*.safetensors")):
        _check_whole(weights)
    if not here & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spm.model"}:
        raise DataError(f"{path} has no tokenizer (tokenizer.json or tokenizer.model)")
    _check_vocabulary(path)


def longest_of(path: Path) -> int | None:
    """Most tokens that an answer of a local checkpoint can have: max_new_tokens of generation_config.json, else its
    positions, which an answer shares with its prompt. None where neither is known here."""
    config = _read(path / "config.json")
    text = config.get("text_config") or config
    given = _read(path / "generation_config.json").get("max_new_tokens")
    most = given or text.get("max_position_embeddings") or text.get("n_positions")
    return most if isinstance(most, int) else None


def _check_vocabulary(path: Path) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for."""
    config = _read(path / "config.json")
    rows = (config.get("text_config") or config).get("vocab_size")
    entries = _entries(_read(path / "tokenizer.json"))
    if rows is not None and entries > rows:
        raise DataError(
            f"{path}: the tokenizer has {entries} entries and the model embeds {rows} (vocab_size of config.json): "
            "resize the model's embedding (resize_token_embeddings) or take the tokenizer that belongs to it"
        )


def _entries(tokenizer: dict[str, Any]) -> int:
    """Largest id of a tokenizer.json, plus one."""
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or ()
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return 1 + max([-1, *ids, *(token["id"] for token in tokenizer.get("added_tokens") or ())])


def _read(file: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is no file. Raises DataError."""
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise DataError(f"{file} is not valid JSON: {e}") from None
    if not isinstance(found, dict):
        raise DataError(f"{file} must hold a JSON object, not a {type(found).__name__}")
    return found


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

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError) as e:
        raise DataError(f"the hub model '{repo}' cannot be had: {e}") from e
