"""JSON objects that carry the digest of their own bytes, so that a bit which changed on a disk is found at reading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from tasks.contract import JSON

_FIRST = b'{"digest":"'


def with_digest(value: Mapping[str, JSON]) -> bytes:
    """One line of JSON whose first field, `digest`, is that of all behind it."""
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"".join([_FIRST, _digest(text), b'"', b"," if value else b"", text[1:], b"\n"])


def without_digest(line: bytes) -> dict[str, Any]:
    """What `with_digest` was given. Raises ValueError for a line whose bytes are not what was written."""
    start = len(_FIRST)
    digest, text = line[start : start + 32], b"{" + line[start + 33 : -1].removeprefix(b",")
    value = json.loads(text) if digest == _digest(text) else None
    if not isinstance(value, dict) or with_digest(value) != line:
        raise ValueError("the bytes do not have their digest")
    return value


def _digest(text: bytes) -> bytes:
    return blake3(text).hexdigest(16).encode()
