"""The one place where messages become token ids: sampling, training and evaluation share what is rendered here.

A prompt is rendered with the policy's chat template and generation prompt, and with no other special token, so no
second BOS appears. An answer is its text's ids, followed by one EOS if it ended by itself and by none if it was cut.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
def _tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True)


def tokenizer_of(policy: Model) -> Any:
    """The policy's Hugging Face tokenizer. Raises DataError if it has no chat template."""
    tokenizer = _tokenizer(str(policy.path))
    if tokenizer.chat_template is None:
        raise DataError(f"{policy.path} has no chat template: add chat_template.jinja, so that prompts can be rendered")
    return tokenizer


def template_digest(policy: Model) -> str:
    """Digest of the tokenizer's files and the chat template: equal digests render every text to equal ids."""
    from blake3 import blake3

    h = blake3()
    for name in _TOKENIZER_FILES:
        file = policy.path / name
        if file.exists():
            h.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return h.hexdigest(16)


def prompt_ids(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """Ids of the conversation with the generation prompt: what the answer's first token is conditioned on."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def completion_ids(tokenizer: Any, text: str, *, ended: bool = True) -> list[int]:
    """Ids of an answer's text, with the EOS that ends a turn if `ended`."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id] if ended else ids


def prompts_ids(tokenizer: Any, prompts: Sequence[Sequence[dict[str, str]]]) -> list[list[int]]:
    """`prompt_ids` of many conversations, in one call of the tokenizer."""
    if not prompts:
        return []
    texts = [tokenizer.apply_chat_template(list(p), tokenize=False, add_generation_prompt=True) for p in prompts]
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"])


def completions_ids(tokenizer: Any, texts: Sequence[str], ended: Sequence[bool]) -> list[list[int]]:
    """`completion_ids` of many answers, in one call of the tokenizer."""
    if not texts:
        return []
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [[*i, tokenizer.eos_token_id] if e else list(i) for i, e in zip(ids, ended, strict=True)]


def stop_ids(policy: Model) -> frozenset[int]:
    """Ids that end an answer: the tokenizer's EOS and those of generation_config.json."""
    ids = {int(tokenizer_of(policy).eos_token_id)}
    extra = generation_config(policy.path).get("eos_token_id")
    if extra is not None:
        ids |= {int(i) for i in (extra if isinstance(extra, list) else [extra])}
    return frozenset(ids)


def generation_config(path: Path) -> dict[str, Any]:
    """What generation_config.json says, e.g. `max_new_tokens`; empty if there is none."""
    file = path / "generation_config.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}
