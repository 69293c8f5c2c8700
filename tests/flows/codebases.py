"""Code bases of a test's own tasks."""

from pathlib import Path

from flows.python.code_index import CodeIndex
from flows.python.codebase import Codebase, tasks_in
from flows.wiring.catalogue import Catalogue


def code_index(root: Path, cache: Path | None = None) -> CodeIndex:
    """What the code below `root/tasks` reaches."""
    return CodeIndex(Codebase([tasks_in(root / "tasks")], cache))


def catalogue_of(tasks: Path) -> Catalogue:
    """What a wiring may name of the tasks in a folder."""
    return Catalogue(Codebase([tasks_in(tasks)]))
