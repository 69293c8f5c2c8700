"""The text side of a checkpoint: tokenizer, digest of its chat template, and the tokens that end an answer."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from tasks.contract import DataError
from tasks.kinds import Model

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip


@cache
def _tokenizer(path: str, files: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True)


def plain_tokenizer_of(model: Model) -> Any:
    """The model's Hugging Face tokenizer, with or without a chat template."""
    return _tokenizer(str(model.path), _files_digest(model.path))


def tokenizer_of(policy: Model) -> Any:
    """The policy's Hugging Face tokenizer. Raises DataError if it has no chat template."""
    tokenizer = plain_tokenizer_of(policy)
    if tokenizer.chat_template is None:
        raise DataError(f"{policy.path.resolve()} has no chat template: add chat_template.jinja")
    return tokenizer


def template_digest(policy: Model) -> str:
    """Digest of tokenizer, chat template and further stop tokens: equal digests render every text to equal ids."""
    files = _files_digest(policy.path)
    extra = sorted(set(_configured_stops(policy.path)) - {_config_eos(policy.path)})
    return _digest(files.encode() + json.dumps(extra).encode()) if extra else files


def stop_ids(policy: Model) -> frozenset[int]:
    """Ids that end an answer: the tokenizer's EOS and those of generation_config.json (else config.json).

    Raises DataError if there is none.
    """
    own = tokenizer_of(policy).eos_token_id
    ids = frozenset([*_configured_stops(policy.path), *([] if own is None else [int(own)])])
    if not ids:
        raise DataError(
            f"{policy.path.resolve()} has no end-of-sequence token: set eos_token in "
            "tokenizer_config.json, or eos_token_id in generation_config.json"
        )
    return ids


def generation_config(path: Path) -> dict[str, Any]:
    """The content of generation_config.json, e.g. `max_new_tokens`; empty if the file is missing."""
    return _json(path / "generation_config.json")


def _configured_stops(path: Path) -> list[int]:
    """eos_token_id of generation_config.json, else of config.json, as transformers' `generate` stops."""
    eos = (generation_config(path) or _json(path / "config.json")).get("eos_token_id")
    return [int(i) for i in (eos if isinstance(eos, list) else [eos]) if i is not None]


def _config_eos(path: Path) -> int | None:
    eos = _json(path / "config.json").get("eos_token_id")
    return eos if isinstance(eos, int) else None


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def _files_digest(path: Path) -> str:
    parts = (n.encode() + b"\0" + (path / n).read_bytes() + b"\0" for n in _TOKENIZER_FILES if (path / n).exists())
    return _digest(b"".join(parts))


def _digest(data: bytes) -> str:
    from blake3 import blake3

    return blake3(data).hexdigest(16)
