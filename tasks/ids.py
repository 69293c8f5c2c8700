"""Ids derived from content: equal prompts have equal ids, whatever their source."""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b


def digest(*parts: str) -> str:
    """32 hex digits of a hash of the list of `parts`."""
    text = "".join(f"{len(p)}:{p}" for p in parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def prompt_id(messages: Sequence[Mapping[str, str]]) -> str:
    """Digest of a prompt's content: roles, texts and extra keys (`tasks/message.py`) in order."""
    content = [[m["role"], m["content"], *filter(None, [m.get("extra")])] for m in messages]
    return digest(json.dumps(content, ensure_ascii=False))
