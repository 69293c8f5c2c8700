"""`alignflow deploy`: the deployments of a pipelines file, on a Prefect server or as a `prefect.yaml`.

Every pipeline gets the deployments that the file gives it, and one more, `manual`, that has no schedule: so each can be
run from Prefect's pages or by `prefect deployment run NAME/manual`. Runs of one deployment that continues never
overlap: the next one waits. `alignflow serve` executes them, and nothing else; another Prefect worker of the work pool
would execute whatever is there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.registered_deployments import ENTRY, forget_deployments, remember_deployments
from flows.commands.requests import MANUAL
from flows.run.prefect.api import users_server
from flows.system.environment import environment
from flows.wiring.check_results import check_pipelines
from flows.wiring.grammar import PipelineText
from flows.wiring.model import Graph
from flows.wiring.text import PipelineFile
from flows.wiring.tree import fail
from flows.wiring.where import Where
from tasks.contract import DataError, SpecError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

POOL = "alignflow"
"""The work pool whose runs `alignflow serve` executes by default."""
TAG = "alignflow"
SET_DIRECTORY = "prefect.deployments.steps.set_working_directory"
QUEUE_UP = "ENQUEUE"
"""What Prefect does with a run that would overlap: it waits for its turn (the other way is to cancel it)."""


@dataclass(frozen=True)
class ServePaths:
    """Where a served run finds its pipelines file and puts what it makes; both absolute."""

    file: Path
    artifacts: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"ALIGNFLOW_FILE": str(self.file), "ALIGNFLOW_ARTIFACTS": str(self.artifacts)}


@dataclass(frozen=True)
class Deployment:
    """One deployment, as Prefect is to have it."""

    pipeline: str
    name: str
    about: str
    cron: str | None = None
    timezone: str = "UTC"
    continues: bool = False
    given: bool = True
    """Whether the file gives it; else it is the pipeline's `manual`."""

    @property
    def title(self) -> str:
        return f"{self.pipeline}/{self.name}"

    @property
    def attribute(self) -> str:
        """Its flow's name in `flows/entry.py`."""
        return f"{self.pipeline}__{self.name}" if self.given else self.pipeline

    @property
    def entrypoint(self) -> str:
        return f"{ENTRY}:{self.attribute}"

    @property
    def when(self) -> str:
        return f"{self.cron}  ({self.timezone})" if self.cron else "on request"

    @property
    def description(self) -> str:
        """What its page in Prefect says of it."""
        goes_on = "Each run goes on where the last one stopped; a run waits for the one before it."
        return "\n\n".join([self.about, *([goes_on] if self.continues else [])])


def deployments(file: Path, name: str | None = None, cache: Path | None = None) -> list[Deployment]:
    """What a file deploys, after all of it has compiled: everything, or what PIPELINE or PIPELINE/DEPLOYMENT names.

    Raises SpecError with every refusal.
    """
    pipeline, _, deployment = (name or "").partition("/")
    verdicts = check_pipelines(file, [pipeline] if pipeline else PipelineFile(file).names, cache=cache)
    refused = ["/".join(filter(None, (v.pipeline, v.deployment))) + f": {v.error}" for v in verdicts if v.error]
    if refused:
        raise SpecError("\n  ".join(["nothing is deployed, because of", *refused]))
    source = PipelineFile(file)
    found = [d for p in dict.fromkeys(v.pipeline for v in verdicts) for d in _of(source.pipeline(p))]
    missing = {(v.pipeline, v.deployment): _missing(v.graph) for v in verdicts}
    for d in found:
        if d.cron and (names := missing[d.pipeline, d.name]):
            raise SpecError(f"{d.title} has a schedule, and needs a value for {names}: give one in its `params`")
    chosen = [d for d in found if deployment in ("", d.name)]
    if not chosen:
        fail(Where(str(file)), f"{pipeline} has no deployment '{deployment}'", deployment, [d.name for d in found])
    return chosen


def _of(text: PipelineText) -> list[Deployment]:
    several = text.deployments.values()
    given = [Deployment(text.name, d.name, text.about, d.cron, d.timezone, d.continues) for d in several]
    return given if MANUAL in text.deployments else [*given, Deployment(text.name, MANUAL, text.about, given=False)]


def _missing(graph: Graph | None) -> str:
    return "" if graph is None else ", ".join(f"'{p.name}'" for p in graph.parameters.values() if p.required)


def register_deployments(
    place: ServePaths, found: Sequence[Deployment], *, pool: str = POOL, prune: bool = False, only: str | None = None,
    take_over: bool = False,
) -> Iterator[str]:  # fmt: skip
    """Register deployments with the server, all or none, and yield a line for each. A paused schedule stays paused.

    Args:
        place: the file and artifacts that their runs use.
        found: the deployments.
        pool: the work pool that their runs wait in; made if it is not there.
        prune: remove those that this file no longer has; they are only listed otherwise.
        only: the pipeline, or PIPELINE/DEPLOYMENT, that `found` is of, if not all.
        take_over: replace those of the same names that another file or other artifacts have there.

    Raises SpecError where others have the names, DataError where no server answers or it refuses; then nothing has
    changed.
    """
    with users_server(place.artifacts) as url:
        from prefect.client.orchestration import get_client
        from prefect.exceptions import PrefectHTTPStatusError

        with get_client(sync_client=True) as client, environment(place.environment):
            try:
                if not take_over:
                    _refuse_others(client, place, found)
                make_pool(client, pool)
                yield from _register_all(client, place, found, pool)
                yield from _gone(client, place, {d.title for d in found}, only, remove=prune)
            except PrefectHTTPStatusError as e:
                raise DataError(f"the Prefect server at {url} refused: {e.response.text[:500]}") from None
    first = next((d for d in found if d.cron), found[0])
    yield f"\n{len(found)} deployments at {url.removesuffix('/api')}/deployments"
    yield "`alignflow serve` executes their runs; ask for one with"
    yield f"  prefect deployment run {first.title} --watch"


def make_pool(client: SyncPrefectClient, pool: str) -> None:
    """Make the work pool unless it is there. Raises SpecError if it is one of another type."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    about = "Runs of pipelines; `alignflow serve` executes them."
    try:
        client.create_work_pool(
            WorkPoolCreate(name=pool, type="process", base_job_template=template, description=about)
        )
    except ObjectAlreadyExists:
        if (kind := client.read_work_pool(pool).type) != "process":
            raise SpecError(f"the work pool '{pool}' is of type {kind}, not process; name another: --pool") from None


def _register_all(client: SyncPrefectClient, place: ServePaths, found: Sequence[Deployment], pool: str) -> list[str]:
    """Register all of them, or none: what was registered is undone where a later one is refused. One line for each.

    Everything that can be wrong with a deployment is found before the first one is registered.
    """
    planned = [(d, _existing(client, d.title), _fields(place, d, pool)) for d in found]
    done: list[tuple[Deployment, DeploymentResponse | None]] = []
    try:
        for d, before, fields in planned:
            for schedule in fields["schedules"]:
                schedule.active = before is None or all(s.active for s in before.schedules)
            done.append((d, before))
            client.create_deployment(flow_id=client.create_flow_from_name(d.pipeline), **fields)
    except BaseException:
        for d, before in reversed(done):
            _undo(client, d, before)
        raise
    remember_deployments(place.artifacts, {d.title: _executed(place, d) for d in found})
    return [f"✓ {d.title:<40} {d.when}{_paused(before)}" for d, before, _ in planned]


def _fields(place: ServePaths, d: Deployment, pool: str) -> dict[str, Any]:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
    from prefect.client.schemas.schedules import CronSchedule

    cron = CronSchedule(cron=d.cron, timezone=d.timezone) if d.cron else None
    return {
        "name": d.name, "description": d.description, "tags": [TAG], "enforce_parameter_schema": True,
        "schedules": [DeploymentScheduleCreate(schedule=cron)] if cron else [],
        "concurrency_limit": 1 if d.continues else None,
        "concurrency_options": ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy[QUEUE_UP]),
        "parameter_openapi_schema": _form(d), "parameters": {}, "work_pool_name": pool, **_executed(place, d),
    }  # fmt: skip


def _undo(client: SyncPrefectClient, d: Deployment, before: DeploymentResponse | None) -> None:
    """Take a registration back: remove what is new, write what was there before."""
    now = _existing(client, d.title)
    if now and before is None:
        client.delete_deployment(now.id)
    elif now and before:
        client.create_deployment(**_fields_of(before))


def _fields_of(there: DeploymentResponse) -> dict[str, Any]:
    """A deployment on the server as one would register it."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    same = (
        "flow_id", "name", "version", "description", "tags", "parameters", "entrypoint", "path", "work_pool_name",
        "work_queue_name", "enforce_parameter_schema", "parameter_openapi_schema", "pull_steps", "job_variables",
    )  # fmt: skip
    limit = there.global_concurrency_limit
    return {
        **{name: getattr(there, name) for name in same},
        "schedules": [DeploymentScheduleCreate(schedule=s.schedule, active=s.active) for s in there.schedules],
        "concurrency_limit": limit.limit if limit else None, "concurrency_options": there.concurrency_options,
    }  # fmt: skip


def _paused(before: DeploymentResponse | None) -> str:
    paused = before and (before.paused or not all(s.active for s in before.schedules))
    return "  (paused on the server)" if paused else ""


def _refuse_others(client: SyncPrefectClient, place: ServePaths, found: Sequence[Deployment]) -> None:
    """Raise SpecError if a deployment is there that another file or other artifacts have: its next run would read
    these, so one that continues would begin at the ledger of another store."""
    others = []
    for d in found:
        before = _existing(client, d.title)
        there = (before.job_variables or {}).get("env", {}) if before else {}
        if before and any(there.get(name) != value for name, value in place.environment.items()):
            file, artifacts = (there.get(name, "unknown") for name in place.environment)
            others.append(f"{d.title}: from {file}, results in {artifacts}")
    if others:
        here = f"from {place.file}, results in {place.artifacts}"
        hint = "Use a server of your own (`alignflow up` over these artifacts), or say --take-over to replace them."
        raise SpecError("\n  ".join([f"the server has other deployments of these names; here: {here}", *others, hint]))


def _form(d: Deployment) -> dict[str, Any]:
    """The JSON Schema of the flow's parameters: the form in Prefect's pages, and what the server lets pass."""
    from flows import entry

    return dict(getattr(entry, d.attribute).parameters.model_dump(exclude_unset=True))


def _executed(place: ServePaths, d: Deployment) -> dict[str, Any]:
    """What a run of it executes, and how: all of this, and nothing else, is what `alignflow serve` lets pass."""
    return {"entrypoint": d.entrypoint, "job_variables": _job(place), "pull_steps": _pull(place)}


def _job(place: ServePaths) -> dict[str, Any]:
    return {"working_dir": str(place.file.parent), "env": place.environment}


def _pull(place: ServePaths) -> list[dict[str, Any]]:
    return [{SET_DIRECTORY: {"directory": str(place.file.parent)}}]


def _existing(client: SyncPrefectClient, title: str) -> DeploymentResponse | None:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(title)
    except ObjectNotFound:
        return None


def _gone(
    client: SyncPrefectClient, place: ServePaths, titles: set[str], only: str | None, *, remove: bool
) -> Iterator[str]:
    """The deployments of this file on the server that the file no longer has."""
    for title, deployment in registered(client):
        ours = (deployment.job_variables or {}).get("env", {}).get("ALIGNFLOW_FILE") == str(place.file)
        if not ours or title in titles or (only and only not in (title, title.split("/")[0])):
            continue
        if remove:
            client.delete_deployment(deployment.id)
            forget_deployments(place.artifacts, [title])
        yield f"– {title:<40} " + ("removed" if remove else "no longer in the file; remove it with --prune")


def registered(client: SyncPrefectClient) -> list[tuple[str, DeploymentResponse]]:
    """All deployments of ours on the server, with their titles, in order."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    several: list[DeploymentResponse] = []
    while more := client.read_deployments(deployment_filter=ours, limit=200, offset=len(several)):
        several += more
    flows = {d.flow_id: client.read_flow(d.flow_id).name for d in {d.flow_id: d for d in several}.values()}
    return sorted(((f"{flows[d.flow_id]}/{d.name}", d) for d in several), key=lambda pair: pair[0])


def write_prefect_yaml(place: ServePaths, found: Sequence[Deployment], *, pool: str = POOL) -> Path:
    """Write the deployments as a `prefect.yaml` beside the pipelines file, for `prefect deploy --all` there.

    It names folders of this machine, so it is made anew and not kept in git. Raises DataError if one is there that
    people wrote.
    """
    target = place.file.parent / "prefect.yaml"
    if target.exists() and not target.read_text().startswith(HEADER.splitlines()[0]):
        raise DataError(f"{target} was not written by alignflow; move it away first")
    from ruamel.yaml import YAML

    written = {
        "name": "alignflow", "pull": _pull(place), "deployments": [_in_yaml(place, d, pool) for d in found],
    }  # fmt: skip
    remember_deployments(place.artifacts, {d.title: _executed(place, d) for d in found})
    with target.open("w") as stream:
        stream.write(HEADER.format(command=Path(sys.argv[0]).name, pool=pool))
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style, yaml.sort_base_mapping_type_on_output, yaml.width = False, False, 120  # type: ignore[assignment]
        yaml.dump(written, stream)
    return target


HEADER = """# Written by `alignflow deploy --prefect-yaml` from pipelines.yaml: edit that one, and write this one anew.
# `prefect deploy --all`, in this folder, registers it; `prefect work-pool create {pool} --type process` goes before,
# unless `alignflow serve` (which executes the runs) has made the pool.
"""


def _in_yaml(place: ServePaths, d: Deployment, pool: str) -> Mapping[str, Any]:
    entry: dict[str, Any] = {
        "name": d.name, "entrypoint": d.entrypoint, "description": d.description, "tags": [TAG],
        "enforce_parameter_schema": True, "work_pool": {"name": pool, "job_variables": _job(place)},
        "schedules": [{"cron": d.cron, "timezone": d.timezone}] if d.cron else [],
    }  # fmt: skip
    if d.continues:
        entry["concurrency_limit"] = {"limit": 1, "collision_strategy": QUEUE_UP}
    return entry
