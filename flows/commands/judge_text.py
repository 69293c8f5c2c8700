"""How the page of `alignflow judge` shows texts: what cannot be seen is made visible, and code keeps its letters.

The page puts these texts into the document as text and never as HTML.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tasks.message import conversation_text, extra_of

_JOINERS = "\u200c\u200d"
"""Invisible, and needed by scripts and emoji."""
_FENCE = re.compile(r"^```[^\n`]*\n(.*?)(?:^```[ \t]*$\n?|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class TextPart:
    """Part of a text."""

    text: str
    code: bool
    """Whether it stands between fences, ```."""


def visible(text: str) -> str:
    """The text with signs for characters that would hide, colour or turn it around: ⟨U+001B⟩[31m, ⟨U+202E⟩."""
    return "".join(map(_visible, text.replace("\r\n", "\n")))


def _visible(character: str) -> str:
    if character in "\n\t" or character in _JOINERS:
        return character
    hides = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return f"⟨U+{ord(character):04X}⟩" if hides else character


def segments(text: str) -> list[TextPart]:
    """The text as prose and code, without the fences."""
    return [TextPart(visible(part.text), part.code) for part in _parts(text) if part.text.strip()] or [
        TextPart("", False)
    ]


def _parts(text: str) -> Iterator[TextPart]:
    end = 0
    for fence in _FENCE.finditer(text):
        yield TextPart(text[end : fence.start()].strip("\n"), False)
        yield TextPart(fence[1].rstrip("\n"), True)
        end = fence.end()
    yield TextPart(text[end:].strip("\n") if end else text, False)


def message_text(message: Mapping[str, str]) -> str:
    """What a message says, with its tools and calls where it has them."""
    return conversation_text([message]) if extra_of(message) else message["content"]
