"""All pages that are written from the code, and the navigation with them in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from docs.generate.catalogue import Reference
from docs.generate.commands import commands_page
from docs.generate.methods import GROUPS, Method, MethodPages, group_of, methods_of, wired
from flows.wiring.catalogue import Catalogue

Navigation = list[Any]


@cache
def compiled_methods(root: Path) -> list[Method]:
    """The pipelines of a checkout. Raises SpecError where one does not compile."""
    return methods_of(root / "pipelines.yaml", shared_catalogue())


@cache
def shared_catalogue() -> Catalogue:
    """The tasks and choices of this checkout, read once."""
    return Catalogue()


@cache
def generated_pages(root: Path) -> dict[str, str]:
    """Path below `docs/` → Markdown, from the code and the pipelines of a checkout.

    Raises SpecError where a pipeline does not compile.
    """
    catalogue, methods = shared_catalogue(), compiled_methods(root)
    docs = root / "docs"
    numbers, papers = (docs / "numbers.md").read_text(), (docs / "methods" / "index.md").read_text()
    return {
        **MethodPages(methods, catalogue, numbers, papers).pages(),
        **Reference(catalogue, wired(methods)).pages(),
        "reference/commands.md": commands_page(),
    }


def with_links(markdown: str, path: str, pages: Iterable[str]) -> str:
    """A page with the pipelines that its tables name as links to their pages.

    path: of the page, below `docs/`; pages: paths of all generated pages.
    """
    names = {p.removeprefix("methods/").removesuffix(".md"): p for p in pages if p.startswith("methods/")}
    up = "../" * path.count("/")

    def link(span: re.Match[str]) -> str:
        return f"[{span[0]}]({up}{names[span[1]]})" if span[1] in names else span[0]

    lines = markdown.split("\n")
    return "\n".join(re.sub(r"`([\w-]+)`", link, line) if line.startswith("| ") else line for line in lines)


def navigation(written: Navigation, pages: dict[str, str]) -> Navigation:
    """The navigation of `mkdocs.yml` with the methods by group and the reference in it."""
    return [_filled(entry, pages) for entry in written]


def _filled(entry: Any, pages: dict[str, str]) -> Any:
    match entry:
        case {"Methods": [*own]}:
            return {"Methods": [*own, *_methods(pages)]}
        case {"Reference": [*own]}:
            return {"Reference": [*own, *_reference(pages)]}
    return entry


def _methods(pages: dict[str, str]) -> Navigation:
    names = [path.removeprefix("methods/").removesuffix(".md") for path in pages if path.startswith("methods/")]
    groups = {title: [n for n in names if group_of(n) == title] for title in [*GROUPS, "Others"]}
    return [{title: [{n: f"methods/{n}.md"} for n in own]} for title, own in groups.items() if own]


def _reference(pages: dict[str, str]) -> Navigation:
    def inside(folder: str) -> Navigation:
        paths = [p for p in pages if p.startswith(f"reference/{folder}/") and not p.endswith("index.md")]
        return [f"reference/{folder}/index.md", *sorted(paths)]

    return [
        {"Every command": "reference/commands.md"},
        {"Every key of pipelines.yaml": "reference/keys.md"},
        {"Tasks": inside("tasks")},
        {"Choices": inside("choices")},
        {"Groups of parameters": "reference/groups.md"},
        {"Kinds of artifacts": "reference/kinds.md"},
        {"Metrics": "reference/metrics.md"},
        {"Arguments of losses": "reference/loss-arguments.md"},
    ]
