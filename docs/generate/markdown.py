"""Docstrings and values as Markdown: nothing in them is taken for markup, and formulas stay as they are written."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Sequence

_SPECIAL = re.compile(r"([\\*_<\[\]|#])")
_PAPER = re.compile(r"(?:arXiv[: ])?\b(\d{4}\.\d{5})\b")
_SECTION = re.compile(r"^(Args|Source|Paper|MNPO|Returns|Raises):")


def escaped(text: str) -> str:
    """Text in which Markdown finds no markup but `code`, and arXiv numbers are links."""
    parts = re.split(r"(`+[^`]*`+)", " ".join(text.split()))
    return "".join(_code(p) if p.startswith("`") else with_papers(_SPECIAL.sub(r"\\\1", p)) for p in parts)


def _code(span: str) -> str:
    return span.replace("|", "&#124;") if "|" not in span else f"<code>{_html(span.strip('`'))}</code>"


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")


def with_papers(text: str) -> str:
    """The text with its arXiv numbers as links."""
    return _PAPER.sub(lambda m: f"[arXiv {m[1]}](https://arxiv.org/abs/{m[1]})", text)


def docstring(doc: str, *, first: bool = True) -> Iterator[str]:
    """Blocks of a docstring: paragraphs, formulas as code, `Source:` and `Paper:`; `Args:` is left to the tables.

    first: whether the first paragraph is among them.
    """
    blocks = re.split(r"\n{2,}", inspect.cleandoc(doc))
    for number, block in enumerate(blocks):
        if block.startswith("Args:") or (number == 0 and not first):
            continue
        if block.startswith("    "):
            yield f"```text\n{inspect.cleandoc(block)}\n```"
            continue
        paragraph: list[str] = []
        for line in block.splitlines():
            if _SECTION.match(line) and paragraph:
                yield _paragraph(paragraph)
                paragraph = []
            paragraph.append(line)
        yield _paragraph(paragraph)


def _paragraph(lines: Sequence[str]) -> str:
    text = escaped(" ".join(lines))
    return re.sub(r"^(Source|Paper|MNPO): ", r"**\1:** ", text)


def formulas(doc: str) -> list[str]:
    """The indented blocks of a docstring, without the examples of wirings."""
    blocks = re.split(r"\n{2,}", inspect.cleandoc(doc))
    return [inspect.cleandoc(b) for b in blocks if b.startswith("    ") and "task:" not in b]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty where it has no rows."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *lines]) if lines else ""


def value(plain: object) -> str:
    """A default or parameter as code, in the form in which YAML has it."""
    text = plain if isinstance(plain, str) and plain else json.dumps(plain, ensure_ascii=False)
    return f"<code>{_html(text)}</code>"


def page(*blocks: str) -> str:
    """Blocks that are not empty, with empty lines between them."""
    return "\n\n".join(block for block in blocks if block) + "\n"
