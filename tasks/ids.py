"""Names made from content: the same prompt has the same id wherever it was read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b


def digest(*parts: str) -> str:
    """32 hex digits that stand for `parts`, their order and their borders."""
    text = "".join(f"{len(p)}:{p}" for p in parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def prompt_id(messages: Sequence[Mapping[str, str]]) -> str:
    """Digest of a prompt's content: roles and texts in order, and what messages hold besides (`tasks/message.py`)."""
    said = [[m["role"], m["content"], *filter(None, [m.get("extra")])] for m in messages]
    return digest(json.dumps(said, ensure_ascii=False))
