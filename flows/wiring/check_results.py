"""`alignflow check`: every pipeline, with its deployments, compiled and judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows.wiring.contracts import broken_choices
from flows.wiring.graph import CarriedValue, Tick, catalogue_for, compile_from
from flows.wiring.model import Graph
from flows.wiring.signatures import Catalogue
from flows.wiring.text import PipelineFile, load_file
from flows.wiring.tree import fail
from tasks.contract import SpecError


@dataclass(frozen=True)
class CheckResult:
    """What `check` says of a pipeline, or of one of its deployments: a graph or an error."""

    pipeline: str
    """Or the file of a choice that does not fit its folder."""
    deployment: str | None
    graph: Graph | None
    error: str = ""


def check_pipelines(
    file: Path, names: Sequence[str] = (), *, tasks_root: Path | None = None, cache: Path | None = None
) -> list[CheckResult]:
    """Judge the named pipelines, or PIPELINE/DEPLOYMENT (default: all that can run, and every choice).

    Raises SpecError if the file itself is broken, or if a pipeline has no such deployment.
    """
    source = load_file(file)
    catalogue = catalogue_for(source, tasks_root, cache)
    found = [v for name in names or source.names for v in _named(source, catalogue, name)]
    said = "\n".join(v.error for v in found)
    broken = (
        [] if names else [CheckResult(file, None, None, e) for file, e in broken_choices(catalogue) if e not in said]
    )
    catalogue.codebase.save()
    return [*found, *broken]


def _named(source: PipelineFile, catalogue: Catalogue, name: str) -> list[CheckResult]:
    pipeline, _, deployment = name.partition("/")
    found = list(_verdicts(source, catalogue, pipeline))
    if not deployment or found[0].error:
        return found
    of_it = [v for v in found if v.deployment == deployment]
    if not of_it:
        text = source.pipeline(pipeline)
        fail(text.node.place, f"{pipeline} has no deployment '{deployment}'", deployment, text.deployments)
    return of_it


def _verdicts(source: PipelineFile, catalogue: Catalogue, name: str) -> Iterator[CheckResult]:
    compiled = partial(compile_from, source, catalogue, name, {}, lenient=True)
    try:
        yield CheckResult(name, None, compiled())
        deployments = source.pipeline(name).deployments
    except SpecError as e:
        yield CheckResult(name, None, None, str(e))
        return
    for deployment, text in deployments.items():
        try:
            first = compiled(deployment=deployment)
            for tick in _later_ticks(first) if text.continues else ():
                compiled(deployment=deployment, tick=tick)
            yield CheckResult(name, deployment, first)
        except SpecError as e:
            yield CheckResult(name, deployment, None, str(e))


def _later_ticks(first: Graph) -> list[Tick]:
    """The second tick, and what runs behind the last one, given what the first one would have left."""
    left = {
        a.split("@")[0]: CarriedValue(first.nodes[n].kind, a) for a, n in first.addresses.items() if a.endswith("@1")
    }
    every = {name: (carried,) for name, carried in left.items()}
    return [Tick(2, left), Tick(2, left, every, after=True)]
