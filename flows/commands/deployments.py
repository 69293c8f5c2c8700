"""The deployments of a pipelines file, and how to write them as a `prefect.yaml`.

Every pipeline has the deployments that the file defines, and one more, `manual`, without a schedule: so each can be run
from Prefect's pages or by `prefect deployment run NAME/manual`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.commands.project import MANUAL
from flows.commands.registered_deployments import ENTRY, remember_deployments
from flows.wiring.check_results import check_pipelines
from flows.wiring.grammar import PipelineText
from flows.wiring.model import Graph
from flows.wiring.text import PipelineFile
from flows.wiring.tree import fail
from flows.wiring.where import Where
from tasks.contract import DataError, SpecError

POOL = "alignflow"
"""The work pool whose runs `alignflow serve` executes by default."""
TAG = "alignflow"
SET_DIRECTORY = "prefect.deployments.steps.set_working_directory"
QUEUE_UP = "ENQUEUE"
"""Prefect's name for the rule that a run which would overlap waits for its turn."""


@dataclass(frozen=True)
class ServePaths:
    """Where a served run finds its pipelines file and puts its results; both absolute."""

    file: Path
    artifacts: Path
    profile: str = ""
    """On which devices its runs compute; empty: the built-in profile."""

    @property
    def places(self) -> dict[str, str]:
        """Variables that say whose deployment it is."""
        return {"ALIGNFLOW_FILE": str(self.file), "ALIGNFLOW_ARTIFACTS": str(self.artifacts)}

    @property
    def environment(self) -> dict[str, str]:
        return {**self.places, **({"ALIGNFLOW_PROFILE": self.profile} if self.profile else {})}

    @property
    def job_variables(self) -> dict[str, Any]:
        return {"working_dir": str(self.file.parent), "env": self.environment}

    @property
    def pull_steps(self) -> list[dict[str, Any]]:
        return [{SET_DIRECTORY: {"directory": str(self.file.parent)}}]


@dataclass(frozen=True)
class Deployment:
    """One deployment, as Prefect is to have it."""

    pipeline: str
    name: str
    about: str
    cron: str | None = None
    timezone: str = "UTC"
    continues: bool = False
    in_file: bool = True
    """False for the `manual` that every pipeline has besides."""

    @property
    def title(self) -> str:
        return f"{self.pipeline}/{self.name}"

    @property
    def flow_name(self) -> str:
        """The name of its flow in `flows/entry.py`."""
        return f"{self.pipeline}__{self.name}" if self.in_file else self.pipeline

    @property
    def when(self) -> str:
        return f"{self.cron}  ({self.timezone})" if self.cron else "on request"

    @property
    def description(self) -> str:
        """The text on its page in Prefect."""
        continues = "Each run goes on where the last one stopped; a run waits for the one before it."
        return "\n\n".join([self.about, *([continues] if self.continues else [])])

    def executed(self, place: ServePaths) -> dict[str, Any]:
        """The fields that say what its runs execute, and how. `alignflow serve` refuses a run that differs in any."""
        return {
            "entrypoint": f"{ENTRY}:{self.flow_name}", "job_variables": place.job_variables,
            "pull_steps": place.pull_steps,
        }  # fmt: skip


def deployments(file: Path, name: str | None = None, cache: Path | None = None) -> list[Deployment]:
    """The deployments of a file, after all of it has compiled: all, or those of PIPELINE or PIPELINE/DEPLOYMENT.

    Raises SpecError with every refusal.
    """
    pipeline, _, deployment = (name or "").partition("/")
    source = PipelineFile(file)
    results = check_pipelines(file, [pipeline] if pipeline else source.names, cache=cache)
    if refused := ["/".join(filter(None, (r.pipeline, r.deployment))) + f": {r.error}" for r in results if r.error]:
        raise SpecError("\n  ".join(["nothing is deployed, because of", *refused]))
    every = [d for p in dict.fromkeys(r.pipeline for r in results) for d in _deployments_of(source.pipeline(p))]
    missing = {(r.pipeline, r.deployment): _missing_values(r.graph) for r in results}
    for d in every:
        if d.cron and (names := missing[d.pipeline, d.name]):
            raise SpecError(f"{d.title} has a schedule, and needs a value for {names}: give one in its `params`")
    chosen = [d for d in every if deployment in ("", d.name)]
    if not chosen:
        fail(Where(str(file)), f"{pipeline} has no deployment '{deployment}'", deployment, [d.name for d in every])
    return chosen


def _deployments_of(text: PipelineText) -> list[Deployment]:
    own = [
        Deployment(text.name, d.name, text.about, d.cron, d.timezone, d.continues) for d in text.deployments.values()
    ]
    return own if MANUAL in text.deployments else [*own, Deployment(text.name, MANUAL, text.about, in_file=False)]


def _missing_values(graph: Graph | None) -> str:
    return "" if graph is None else ", ".join(f"'{p.name}'" for p in graph.parameters.values() if p.required)


HEADER = """# Written by `alignflow deploy --prefect-yaml` from pipelines.yaml: edit that file, then write this again.
# `prefect deploy --all`, in this folder, registers it. The pool must exist: `alignflow serve` makes it, and so does
# `prefect work-pool create {pool} --type process`.
"""


def write_prefect_yaml(place: ServePaths, found: Sequence[Deployment], *, pool: str = POOL) -> Path:
    """Write the deployments as a `prefect.yaml` beside the pipelines file, for `prefect deploy --all` there.

    It names folders of this machine, so it does not belong in git. Raises DataError if a file of that name exists that
    this command did not write.
    """
    from ruamel.yaml import YAML

    target = place.file.parent / "prefect.yaml"
    if target.exists() and not target.read_text().startswith(HEADER.splitlines()[0]):
        raise DataError(f"{target} was not written by alignflow; move it away first")
    remember_deployments(place.artifacts, {d.title: d.executed(place) for d in found})
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output, yaml.width = False, False, 120  # type: ignore[assignment]
    with target.open("w") as stream:
        stream.write(HEADER.format(pool=pool))
        entries = [_yaml_entry(place, d, pool) for d in found]
        yaml.dump({"name": "alignflow", "pull": place.pull_steps, "deployments": entries}, stream)
    return target


def _yaml_entry(place: ServePaths, d: Deployment, pool: str) -> dict[str, Any]:
    limit = {"concurrency_limit": {"limit": 1, "collision_strategy": QUEUE_UP}} if d.continues else {}
    return {
        "name": d.name, "entrypoint": d.executed(place)["entrypoint"], "description": d.description, "tags": [TAG],
        "enforce_parameter_schema": True, "work_pool": {"name": pool, "job_variables": place.job_variables},
        "schedules": [{"cron": d.cron, "timezone": d.timezone}] if d.cron else [], **limit,
    }  # fmt: skip
