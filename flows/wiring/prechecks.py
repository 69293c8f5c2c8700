"""The checks that tasks declare for their own steps: of the wiring at compile time, of files by a plan."""

from __future__ import annotations

from collections.abc import Iterable

from flows.python.declared import Declarations, failure
from flows.wiring.model import Graph
from flows.wiring.views import View, views_of
from tasks.contract import DataError, SpecError


def check_wiring(graph: Graph, declared: Declarations) -> None:
    """Raise SpecError, at its place, for the first step that can only fail as it is wired."""
    if any(declared.of_task(node.task, "wiring") for node in graph.nodes.values()):
        _check(graph, views_of(graph, declared).values(), declared, "wiring")


def check_step_files(graph: Graph, steps: Iterable[View], declared: Declarations) -> None:
    """Raise SpecError, at its place, for the first of these steps that can only fail with the files that it reads."""
    _check(graph, steps, declared, "files")


def _check(graph: Graph, steps: Iterable[View], declared: Declarations, what: str) -> None:
    for step in steps:
        check, node = declared.of_task(step.task, what), step.origin
        try:
            if check is not None:
                check(step)
        except (SpecError, DataError) as e:
            raise SpecError(f"{node.where}: {graph.pipeline}.{node.id}: {e}") from None
        except Exception as e:
            raise SpecError(f"{node.where}: {graph.pipeline}.{node.id}: {failure(check, e)}") from e
