"""What files and models say may hold control characters, which a terminal would obey: they are shown escaped."""

from __future__ import annotations

import json
import re
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 and C1 but for tab and newline, and what turns the direction of writing."""


def escape_control_characters(text: str) -> str:
    """The text with control characters as Python writes them: `\\x1b[31m`."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def json_text(data: Any) -> str:
    """The data as JSON, with control characters as JSON escapes them."""
    text = json.dumps(data, indent=1, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u202a-\u202e\u2066-\u2069]", lambda found: f"\\u{ord(found[0]):04x}", text)
