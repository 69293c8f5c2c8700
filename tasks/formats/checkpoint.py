"""External checkpoints: checks of a model directory, and downloads from the hub."""

import json
from pathlib import Path
from typing import Any

from tasks.contract import DataError
from tasks.formats.hub import check_path


def check_model(path: Path) -> None:
    """Raises DataError unless `path` is a complete checkpoint with a chat template and an end-of-sequence token.

    It reads JSON files and the headers of safetensors files only, which takes less than a second for any model.
    """
    check_files(path)
    if not (path / "chat_template.jinja").exists() and not _read(path / "tokenizer_config.json").get("chat_template"):
        raise DataError(f"{path} has no chat template: add chat_template.jinja")
    settings = ("tokenizer_config.json", "special_tokens_map.json"), ("generation_config.json", "config.json")
    has_token = any(_read(path / name).get("eos_token") for name in settings[0])
    if not has_token and all(_read(path / name).get("eos_token_id") is None for name in settings[1]):
        raise DataError(
            f"{path} has no end-of-sequence token: set eos_token in "
            "tokenizer_config.json, or eos_token_id in generation_config.json"
        )


def check_files(path: Path) -> None:
    """Raises DataError unless `path` has a config, complete safetensors weights and a tokenizer that fits them."""
    names = {p.name for p in path.iterdir()} if path.is_dir() else set()
    if "adapter.json" in names:
        raise DataError(
            f"{path} is an adapter as this project stores it, and its base is not known here: use the whole model that "
            "`alignflow export` writes, or, with --adapter, what `load_adapter` reads"
        )
    if "adapter_config.json" in names:
        base = _read(path / "adapter_config.json").get("base_model_name_or_path") or "its base model"
        raise DataError(
            f"{path} is an adapter of {base}, not a whole model. Read its base with `load_policy`, and then "
            f"{{task: load_adapter, policy: BASE, source: {path}}}; `merge` makes a whole model of both"
        )
    if "config.json" not in names:
        raise DataError(f"{path} is not a Hugging Face model directory: config.json is missing")
    if not any(name.endswith(".safetensors") for name in names):
        pickles = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth")))
        hint = f"; {pickles[0]} is a pickle, which may run code: convert it with safetensors" if pickles else ""
        raise DataError(f"{path} has no *.safetensors weights{hint}")
    for weights in sorted(path.glob("*.safetensors")):
        _check_size(weights)
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spm.model"}:
        raise DataError(f"{path} has no tokenizer (tokenizer.json or tokenizer.model)")
    _check_vocabulary(path)


def max_answer_tokens(path: Path) -> int | None:
    """Upper bound on the tokens of an answer by a local checkpoint: max_new_tokens of generation_config.json, else the
    positions of the model, which prompt and answer share. None where neither is known."""
    config = _read(path / "config.json")
    text = config.get("text_config") or config
    configured = _read(path / "generation_config.json").get("max_new_tokens")
    most = configured or text.get("max_position_embeddings") or text.get("n_positions")
    return most if isinstance(most, int) else None


def _check_vocabulary(path: Path) -> None:
    """Raises DataError where the tokenizer has ids without an embedding in the model."""
    config = _read(path / "config.json")
    rows = (config.get("text_config") or config).get("vocab_size")
    entries = _entries(_read(path / "tokenizer.json"))
    if rows is not None and entries > rows:
        raise DataError(
            f"{path}: the tokenizer has {entries} entries, the model {rows} embeddings (vocab_size in config.json): "
            "resize the embeddings (resize_token_embeddings) or use the model's own tokenizer"
        )


def _entries(tokenizer: dict[str, Any]) -> int:
    """Largest id of a tokenizer.json, plus one."""
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or ()
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return 1 + max([-1, *ids, *(token["id"] for token in tokenizer.get("added_tokens") or ())])


def _read(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file does not exist. Raises DataError."""
    if not file.exists():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise DataError(f"{file} is not valid JSON: {e}") from None
    if not isinstance(value, dict):
        raise DataError(f"{file} must contain a JSON object, not a {type(value).__name__}")
    return value


def _check_size(file: Path) -> None:
    """Raises DataError where the size of a safetensors file differs from its header, as after a broken download."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy"):
            pass
    except SafetensorError as e:
        raise DataError(f"{file} is not a whole safetensors file ({e}): download it again") from None


def model_directory(path: str, revision: str | None) -> Path:
    """The directory of a model from outside: a local one, or that of a hub id, downloaded if needed."""
    check_path(path, Path.cwd())
    here = Path(path).expanduser()
    return here if here.exists() else download_model(path, revision)


def download_model(repo: str, revision: str | None) -> Path:
    """The local directory of a hub model, downloaded if needed. Pickles and code are excluded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError) as e:
        raise DataError(f"the hub model '{repo}' cannot be downloaded: {e}") from e
