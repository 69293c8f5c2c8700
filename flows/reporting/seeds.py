"""Runs that differ in nothing but their seed are one method: several trainings of the same wiring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flows.store.finished import FinishedStep
from flows.store.runs import Run
from tasks.contract import JSON

SEED = "seed"
"""The parameter that every pipeline has; a run without a value of it has 0."""


class SeededRun(NamedTuple):
    """A run and its finished steps."""

    run: Run
    steps: Sequence[FinishedStep]


def seed_of(run: Run) -> JSON:
    """The seed of a run."""
    return run.parameters.get(SEED) or 0


def by_method(several: Sequence[SeededRun]) -> list[list[int]]:
    """The places of runs that are one method, for each method, in the order of their first runs.

    Two runs are one method if they have the same title (pipeline and deployment) and parameters, but different seeds,
    and if the steps that both have at an address had the same task, code, parameters, packages and outside world, seeds
    apart. So a run with another version of a loss is another method. Runs with equal seeds stay apart: they are no
    further evidence.
    """
    methods: list[list[int]] = []
    for at, one in enumerate(several):
        mine = next((m for m in methods if all(_seeds_differ(several[i], one) for i in m)), None)
        if mine is None:
            methods.append([at])
        else:
            mine.append(at)
    return methods


def without_seeds(value: Any) -> Any:
    """A parameter, or a mapping of them, without the seeds in it."""
    if isinstance(value, Mapping):
        return {name: without_seeds(inner) for name, inner in value.items() if name != SEED}
    return [without_seeds(inner) for inner in value] if isinstance(value, list | tuple) else value


def _seeds_differ(a: SeededRun, b: SeededRun) -> bool:
    """Whether two runs differ in their seeds, and in nothing else."""
    if seed_of(a.run) == seed_of(b.run) or a.run.title != b.run.title:
        return False
    if without_seeds(a.run.parameters) != without_seeds(b.run.parameters):
        return False
    recipes = [{address: _recipe(s) for s in one.steps for address in s.addresses} for one in (a, b)]
    return all(recipes[0][address] == recipes[1][address] for address in recipes[0].keys() & recipes[1].keys())


def _recipe(step: FinishedStep) -> Any:
    """What a step did, but for its seeds and the content of its inputs."""
    parts = {name: part for name, part in step.record.parts.items() if name != "inputs"}
    return step.record.task, without_seeds(parts)
