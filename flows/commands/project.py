"""The pipelines file, the store, the graph and the run that the arguments of a command name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.contract import SpecError

if TYPE_CHECKING:
    from flows.python.codebase import Package
    from flows.store.runs import Run
    from flows.store.store import Store
    from flows.wiring.catalogue import Catalogue
    from flows.wiring.model import Graph

MANUAL = "manual"
"""The deployment without a schedule that every pipeline has; a file may define one of that name itself."""


class Project:
    """The file and the store of one command line, each opened when the command needs it. All raise SpecError."""

    def __init__(self, file: Path | None = None, artifacts: Path | None = None) -> None:
        """`file`, `artifacts`: as given; None for pipelines.yaml here or above, and for `artifacts/` beside it."""
        self._file = file
        self.artifacts = artifacts

    @cached_property
    def file(self) -> Path:
        """The pipelines file."""
        if self._file is not None:
            if not self._file.is_file():
                raise SpecError(f"there is no file {self._file}")
            return self._file.resolve()
        here = Path.cwd()
        for folder in (here, *here.parents):
            if (folder / "pipelines.yaml").is_file():
                return folder / "pipelines.yaml"
        raise SpecError(f"there is no pipelines.yaml in {here} or above; name it with --file")

    @cached_property
    def root(self) -> Path:
        """The folder of the store. Everything that this process writes from now on has the permissions of that."""
        from flows.system.modes import follow_folder

        root = self.artifacts or self.file.parent / "artifacts"
        follow_folder(root)
        return root

    @cached_property
    def store(self) -> Store:
        """The store, with the packages that extend the file."""
        from flows.store.store import Store

        return Store(self.root, self._packages)

    def _packages(self) -> Sequence[Package]:
        from flows.python.importing import activate, active_packages
        from flows.wiring.text import PipelineFile

        with suppress(SpecError):  # whether the file is valid matters to other commands only
            activate(PipelineFile(self.file).packages)
        return active_packages()

    def catalogue(self) -> Catalogue:
        """The tasks and choices that the file's pipelines may name."""
        from flows.wiring.graph import catalogue_for
        from flows.wiring.text import PipelineFile

        return catalogue_for(PipelineFile(self.file), cache=self.store.python_cache)

    def graph(self, name: str, assignments: Sequence[str] | None, *, lenient: bool = False) -> Graph:
        """The graph of PIPELINE or PIPELINE/DEPLOYMENT with KEY=VALUE…; `lenient`: required values may be missing."""
        from flows.rounds.head import compile_named

        values = parse_assignments(assignments)
        return compile_named(self.file, self.target(name), values, self.store, lenient=lenient)

    def target(self, name: str) -> str:
        """The pipeline where NAME/manual is the deployment that `deploy` adds to every pipeline; else NAME itself."""
        from flows.wiring.text import PipelineFile

        pipeline, _, deployment = name.partition("/")
        added = deployment == MANUAL and MANUAL not in PipelineFile(self.file).pipeline(pipeline).deployments
        return pipeline if added else name


def run_of(store: Store, ref: str) -> Run | None:
    """The run that REF names; None if REF names a step or an artifact. Raises SpecError if there is no such run."""
    from flows.store.runs import Runs

    is_run = ":" not in ref and (ref == "last" or re.match(r"\d{8}-", ref))
    return Runs(store).find_run(ref) if is_run else None


def parse_assignments(assignments: Sequence[str] | None) -> dict[str, str]:
    """KEY=VALUE texts as a mapping. Raises SpecError."""
    values: dict[str, str] = {}
    for text in assignments or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SpecError(f"command line: '{text}' is not of the form key=value")
        if key in values:
            raise SpecError(f"command line: '{key}' is given twice")
        values[key] = value
    return values
