"""The store, the graph and the catalogue that a command works on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.requests import deployment_or_pipeline, parse_assignments
from tasks.contract import SpecError

if TYPE_CHECKING:
    from flows.python.codebase import Package
    from flows.store.store import Store
    from flows.wiring.catalogue import Catalogue
    from flows.wiring.model import Graph


def catalogue_of_file(file: Path, artifacts: Path | None) -> Catalogue:
    """What a file's pipelines may name. Raises SpecError."""
    from flows.wiring.graph import catalogue_for
    from flows.wiring.text import PipelineFile

    return catalogue_for(PipelineFile(file), cache=open_store(file, artifacts).python_cache)


def artifacts_root(file: Path | None, artifacts: Path | None) -> Path:
    """The folder of the store that is meant; what this command makes from now on has the permissions of that."""
    from flows.system.modes import follow_folder

    assert artifacts or file
    root = artifacts or file.parent / "artifacts"  # type: ignore[union-attr]
    follow_folder(root)
    return root


def compiled_graph(
    where: Path, name: str, values: list[str] | None, artifacts: Path | None, *, lenient: bool = False
) -> Graph:
    """The graph that NAME KEY=VALUE… means. Raises SpecError."""
    from flows.rounds.head import compile_named

    store = open_store(where, artifacts)
    return compile_named(where, deployment_or_pipeline(where, name), parse_assignments(values), store, lenient=lenient)


def open_store(file: Path | None, artifacts: Path | None) -> Store:
    """The store in `artifacts`, else the one beside the file."""
    from flows.store.store import Store

    return Store(artifacts_root(file, artifacts), lambda: _packages_of(file))


def _packages_of(file: Path | None) -> Sequence[Package]:
    """The shipped tasks and the packages that extend the file; other commands report its mistakes."""
    from flows.python.importing import activate, active_packages
    from flows.wiring.text import PipelineFile

    with suppress(SpecError):
        if file:
            activate(PipelineFile(file).packages)
    return active_packages()
