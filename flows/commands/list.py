"""`alignflow list`: the pipelines of a file, or what their steps may name, shipped or a user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.wiring.catalogue import Catalogue
    from flows.wiring.text import PipelineFile

Entry = dict[str, str]
"""`name` and `about`; of what steps may name also the `folder` (`tasks` for tasks) and, of a user's own, the `file`."""


def pipelines(source: PipelineFile) -> list[Entry]:
    """The pipelines that can run."""
    return [{"name": name, "about": source.abouts[name]} for name in source.names]


def choices(catalogue: Catalogue) -> list[Entry]:
    """Tasks, composites and choices, by folder."""
    chosen = [s for choice in catalogue.takers for s in catalogue.all_choices(choice.folder)]
    signatures = [*catalogue.tasks.values(), *catalogue.composites.values(), *chosen]
    entries = {(s.folder, s.name): s for s in sorted(signatures, key=lambda s: (s.folder, s.name))}
    return [
        {"folder": s.folder or "tasks", "name": s.name, "about": s.about}
        | ({} if s.module.startswith("tasks.") else {"file": catalogue.codebase.shown(s.module)})
        for s in entries.values()
    ]


def lines(entries: Sequence[Entry]) -> Iterator[str]:
    """One line each, below its folder."""
    width = max((len(e["name"]) for e in entries), default=0)
    for folder, several in groupby(entries, lambda e: e.get("folder")):
        yield from [folder] if folder else ()
        for e in several:
            own = f"  ({e['file']})" if "file" in e else ""
            yield f"{'  ' if folder else ''}{e['name']:<{width}}  {e['about']}{own}".rstrip()
