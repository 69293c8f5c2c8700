"""`alignflow check`: every pipeline with its deployments compiled, and the files that they could name checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows.wiring.catalogue import Catalogue
from flows.wiring.contracts import broken_files
from flows.wiring.graph import CarriedValue, Tick, catalogue_for, compile_from
from flows.wiring.model import Graph
from flows.wiring.profiles import check_profile, read_profile
from flows.wiring.text import PipelineFile
from flows.wiring.tree import fail
from tasks.contract import SpecError


@dataclass(frozen=True)
class CheckResult:
    """A pipeline, or one of its deployments, as `check` finds it: a graph or an error."""

    pipeline: str
    """Or a file that is wrong whatever pipelines name of it."""
    deployment: str | None
    graph: Graph | None
    error: str = ""


def check_pipelines(
    file: Path, names: Sequence[str] = (), *, tasks_root: Path | None = None, cache: Path | None = None
) -> list[CheckResult]:
    """Check the named pipelines, or PIPELINE/DEPLOYMENT (default: all that can run, every choice and declaration).

    Raises SpecError if the file itself is broken, or if a pipeline has no such deployment.
    """
    source = PipelineFile(file)
    catalogue = catalogue_for(source, tasks_root, cache)
    results = [result for name in names or source.names for result in _named(source, catalogue, name)]
    if not names:
        reported = "\n".join(result.error for result in results)
        broken = [CheckResult(file, None, None, error) for file, error in broken_files(catalogue)]
        results += [result for result in broken if result.error not in reported]
        results += [result for result in _profiles(source, catalogue) if result.error]
    catalogue.codebase.save()
    return results


def _named(source: PipelineFile, catalogue: Catalogue, name: str) -> list[CheckResult]:
    pipeline, _, deployment = name.partition("/")
    results = list(_results(source, catalogue, pipeline))
    if not deployment or results[0].error:
        return results
    text = source.pipeline(pipeline)
    if deployment not in text.deployments:
        fail(text.node.place, f"{pipeline} has no deployment '{deployment}'", deployment, text.deployments)
    return [result for result in results if result.deployment == deployment]


def _results(source: PipelineFile, catalogue: Catalogue, name: str) -> Iterator[CheckResult]:
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


def _profiles(source: PipelineFile, catalogue: Catalogue) -> Iterator[CheckResult]:
    """The file's profiles, whatever machine this is."""
    for name in source.profiles:
        try:
            check_profile(source, catalogue, read_profile(source, name))
        except SpecError as e:
            yield CheckResult(f"profile {name}", None, None, str(e))


def _later_ticks(first: Graph) -> list[Tick]:
    """The second tick and the steps after the last one, after a first tick with these results."""
    left = {
        a.split("@")[0]: CarriedValue(first.nodes[n].kind, a) for a, n in first.addresses.items() if a.endswith("@1")
    }
    every = {name: (carried,) for name, carried in left.items()}
    return [Tick(2, left), Tick(2, left, every, after=True)]
