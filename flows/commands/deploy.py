"""`alignflow deploy`: registers the deployments of a pipelines file on a Prefect server.

Runs of one deployment that continues never overlap: the next one waits. `alignflow serve` executes registered
deployments and nothing else; another Prefect worker of the work pool would execute whatever is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flows.commands.deployments import POOL, QUEUE_UP, TAG, Deployment, ServePaths
from flows.commands.registered_deployments import forget_deployments, remember_deployments
from flows.run.prefect.api import users_server
from flows.system.environment import environment
from tasks.contract import DataError, SpecError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse


def register_deployments(
    place: ServePaths, found: Sequence[Deployment], *, pool: str = POOL, prune: bool = False, only: str | None = None,
    take_over: bool = False,
) -> Iterator[str]:  # fmt: skip
    """Register deployments with the server, all or none, and yield a line for each. A paused schedule stays paused.

    Args:
        place: the file and artifacts that their runs use.
        found: the deployments.
        pool: the work pool that their runs wait in; made if it does not exist.
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
                yield from _no_longer_in_file(client, place, {d.title for d in found}, only, remove=prune)
            except PrefectHTTPStatusError as e:
                raise DataError(f"the Prefect server at {url} refused: {e.response.text[:500]}") from None
    first = next((d for d in found if d.cron), found[0])
    yield f"\n{len(found)} deployments at {url.removesuffix('/api')}/deployments"
    yield "`alignflow serve` executes their runs; request one with"
    yield f"  prefect deployment run {first.title} --watch"


def make_pool(client: SyncPrefectClient, pool: str) -> None:
    """Make the work pool unless it exists. Raises SpecError if it is one of another type."""
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


def registered(client: SyncPrefectClient) -> list[tuple[str, DeploymentResponse]]:
    """All deployments of ours on the server, with their titles, in order."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    several: list[DeploymentResponse] = []
    while more := client.read_deployments(deployment_filter=ours, limit=200, offset=len(several)):
        several += more
    flows = {id: client.read_flow(id).name for id in {d.flow_id for d in several}}
    return sorted(((f"{flows[d.flow_id]}/{d.name}", d) for d in several), key=lambda pair: pair[0])


def _refuse_others(client: SyncPrefectClient, place: ServePaths, found: Sequence[Deployment]) -> None:
    """Raise SpecError for a deployment that another file or other artifacts have there: its next run would use these
    instead, so one that continues would begin at the ledger of another store."""
    others = []
    for d in found:
        before = _on_server(client, d.title)
        there = _environment_of(before) if before else place.places
        if any(there.get(name) != value for name, value in place.places.items()):
            file, artifacts = (there.get(name, "unknown") for name in place.places)
            others.append(f"{d.title}: from {file}, results in {artifacts}")
    if others:
        here = f"from {place.file}, results in {place.artifacts}"
        hint = "Use a server of your own (`alignflow up` over these artifacts), or add --take-over to replace them."
        raise SpecError("\n  ".join([f"the server has other deployments of these names; here: {here}", *others, hint]))


def _register_all(client: SyncPrefectClient, place: ServePaths, found: Sequence[Deployment], pool: str) -> list[str]:
    """Register all of them and return a line for each; where one is refused, the registrations before it are undone.

    Everything that can be wrong with a deployment is detected before the first one is registered.
    """
    planned = [(d, _on_server(client, d.title), _fields(place, d, pool)) for d in found]
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
    remember_deployments(place.artifacts, {d.title: d.executed(place) for d in found})
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
        "parameter_openapi_schema": _form(d), "parameters": {}, "work_pool_name": pool, **d.executed(place),
    }  # fmt: skip


def _form(d: Deployment) -> dict[str, Any]:
    """The JSON Schema of the flow's parameters: the form in Prefect's pages, which the server also enforces."""
    from flows import entry

    return dict(getattr(entry, d.flow_name).parameters.model_dump(exclude_unset=True))


def _undo(client: SyncPrefectClient, d: Deployment, before: DeploymentResponse | None) -> None:
    """Take a registration back: remove a new one, restore one that was there before."""
    now = _on_server(client, d.title)
    if now and before is None:
        client.delete_deployment(now.id)
    elif now and before:
        client.create_deployment(**_fields_of(before))


def _fields_of(there: DeploymentResponse) -> dict[str, Any]:
    """The fields that register a deployment as it is on the server."""
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


def _on_server(client: SyncPrefectClient, title: str) -> DeploymentResponse | None:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(title)
    except ObjectNotFound:
        return None


def _environment_of(deployment: DeploymentResponse) -> dict[str, str]:
    return (deployment.job_variables or {}).get("env", {})


def _no_longer_in_file(
    client: SyncPrefectClient, place: ServePaths, titles: set[str], only: str | None, *, remove: bool
) -> Iterator[str]:
    """A line for each deployment of this file on the server that the file no longer has."""
    for title, deployment in registered(client):
        ours = _environment_of(deployment).get("ALIGNFLOW_FILE") == str(place.file)
        if not ours or title in titles or (only and only not in (title, title.split("/")[0])):
            continue
        if remove:
            client.delete_deployment(deployment.id)
            forget_deployments(place.artifacts, [title])
        yield f"– {title:<40} " + ("removed" if remove else "no longer in the file; remove it with --prune")
