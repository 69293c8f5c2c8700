"""The pages of the documentation, the README among them, and what stands in them: links, commands, paths, blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from docs.generate.pages import generated_pages

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.M | re.S)
_SNIPPET = re.compile(r'^ *--8<-- "([^":]+)(?::([^"]+))?"$', re.M)


@cache
def written() -> dict[str, str]:
    """Path below the root → Markdown of every page that is written by hand."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {str(file.relative_to(ROOT)): file.read_text() for file in files}


@cache
def generated() -> dict[str, str]:
    return {f"docs/{path}": text for path, text in generated_pages(ROOT).items()}


def every_page() -> dict[str, str]:
    return {**written(), **generated()}


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of each fenced block, with the snippets that it includes."""
    return [(m[2], _SNIPPET.sub(_included, m[3])) for m in _FENCE.finditer(page)]


def _included(match: re.Match[str]) -> str:
    text = (ROOT / match[1]).read_text()
    if match[2]:
        text = text.partition(f"[start:{match[2]}]\n")[2].rpartition(f"  # --8<-- [end:{match[2]}]")[0]
        assert text, f"{match[1]} has no section {match[2]}"
    return text.rstrip("\n")


def without_code(page: str) -> str:
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page))


def links(page: str) -> list[str]:
    """Where its links and images go, but for those to other sites."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(page).replace("\\]", ""))
    return [link for link in found if not link.startswith(("http://", "https://"))]


def anchors(page: str) -> set[str]:
    """Anchors of its headings, as mkdocs makes them."""
    found = set(re.findall(r"\{ #(\S+) \}", page))
    for heading in re.findall(r"^#+ (.+)$", _FENCE.sub("", page), re.M):
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-"))
    return found


def commands(page: str) -> Iterator[list[str]]:
    """The words of every command line `alignflow …` in its blocks without a language and in its code spans."""
    for line in _command_lines(page):
        for part in re.split(r" && |; ", re.sub(r"\s+#\s.*|   .*", "", line.strip().removeprefix("$ "))):
            if part.strip().startswith("alignflow "):
                yield ["1" if word == "N" else word for word in shlex.split(part)[1:]]


def _command_lines(page: str) -> Iterator[str]:
    usage = re.compile(r"[A-Z]{3,}[ ,…]|[|\[]")  # `alignflow run NAME [key=value …]` is no command line
    for language, text in blocks(page):
        yield from (line for line in text.splitlines() if not language and not usage.search(line.partition("#")[0]))
    yield from re.findall(r"(?<!`)`(alignflow [^`\n]+)`(?!`)", _FENCE.sub("", page))


def paths(page: str) -> set[str]:
    """Paths of this repository in its code spans, with every variant of `{a,b}`."""
    rooms = "flows|tasks|tests|benchmarks|examples|docs"
    found = re.findall(rf"`((?:{rooms})/[\w./{{}},-]*)(?:::\w+)?`", page)
    return {path.rstrip(".") for name in found for path in _variants(name) if not re.search(r"NAME|XX", path)}


def _variants(path: str) -> list[str]:
    several = re.search(r"\{([^{}]+)\}", path)
    if not several:
        return [path]
    return [v for name in several[1].split(",") for v in _variants(path.replace(several[0], name, 1))]
