"""Code bases of a test's own tasks."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

from flows.python.code_index import CodeIndex
from flows.python.codebase import Codebase, tasks_in
from flows.wiring.catalogue import Catalogue


def write_files(folder: Path, files: Mapping[str, str]) -> Path:
    """Write files, by their paths in a folder, without the indentation of their texts; gives the folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


def code_index(root: Path, cache: Path | None = None) -> CodeIndex:
    """What the code below `root/tasks` reaches."""
    return CodeIndex(Codebase([tasks_in(root / "tasks")], cache))


def catalogue_of(tasks: Path) -> Catalogue:
    """What a wiring may name of the tasks in a folder."""
    return Catalogue(Codebase([tasks_in(tasks)]))
