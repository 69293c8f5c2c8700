"""JSON lines with a digest of their own bytes, which detects corruption on disk."""

import json
from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from tasks.contract import JSON

_FIRST = b'{"digest":"'


def with_digest(value: Mapping[str, JSON]) -> bytes:
    """One line of JSON whose first field, `digest`, covers all that follows."""
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"".join([_FIRST, _digest(text), b'"', b"," if value else b"", text[1:], b"\n"])


def without_digest(line: bytes) -> dict[str, Any]:
    """The value that `with_digest` encoded. Raises ValueError for a damaged line."""
    start = len(_FIRST)
    digest, text = line[start : start + 32], b"{" + line[start + 33 : -1].removeprefix(b",")
    value = json.loads(text) if digest == _digest(text) else None
    if not isinstance(value, dict) or with_digest(value) != line:
        raise ValueError("the digest does not match")
    return value


def _digest(text: bytes) -> bytes:
    return blake3(text).hexdigest(16).encode()
