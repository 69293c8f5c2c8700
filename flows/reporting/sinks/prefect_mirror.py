"""Records runs that computed nothing in Prefect, once a server is up.

Prefect's server takes longer to start than such a run, and its pages can be seen only while it is up. So the run is
recorded on the server that is up when it ends; without one, its id waits in `artifacts/pending/prefect/` for the next
`alignflow up`. Recording a run twice changes nothing: Prefect knows it by its id.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, UUID, uuid5

from flows.reporting.sinks.mlflow_view import run_page
from flows.reporting.sinks.pending import PendingRuns
from flows.reporting.sinks.prefect_artifacts import artifact_create, last_artifacts
from flows.run.prefect.api import users_server
from flows.run.prefect.server import running
from flows.store.records import Record
from flows.store.runs import Run, Runs, RunStep
from flows.store.store import Store
from tasks.contract import DataError, SpecError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

STATES = {
    "hit": ("COMPLETED", "Cached"), "made": ("COMPLETED", "Completed"), "failed": ("FAILED", "Failed"),
    "done": ("COMPLETED", "Completed"), "stopped": ("CANCELLED", "Cancelled"),
    "waiting": ("CANCELLED", "Waiting"),
}  # fmt: skip
"""State of a step or a run → type and name in Prefect; a step of another state did not begin."""


def mirror(store: Store, run: Run) -> str:
    """Record a finished run on the server that is up, or let it wait for the next one.

    Returns a message if that failed; else `run.links` has the flow run's id.
    """
    waiting_runs(store).add(run.id)
    if not (os.environ.get("PREFECT_API_URL") or running(store.root)):
        return ""
    trouble = mirror_waiting(store)
    run.links.update(Runs(store).load(run.id).links)
    return trouble


def waiting_runs(store: Store) -> PendingRuns:
    """The runs that wait for a Prefect server."""
    return PendingRuns(store, "prefect")


def mirror_waiting(store: Store) -> str:
    """Record all waiting runs on the server that is up. Returns a message if that failed."""
    from httpx import HTTPError

    try:
        waiting_runs(store).publish(partial(_record, store))
    except (HTTPError, DataError) as e:
        why = " ".join(str(e).split())[:120]
        return f"Prefect did not take run {waiting_runs(store).ids()[0]} ({why}); the next `alignflow up` tries again"
    return ""


def _record(store: Store, id: str) -> bool:
    """Record one run; one whose file is gone has nothing to record."""
    from prefect.client.orchestration import get_client

    runs = Runs(store)
    try:
        run = runs.load(id)
    except SpecError:
        return True
    with users_server(store.root), get_client(sync_client=True) as client:
        run.links["prefect"] = _flow_run(client, store, run)
        runs.save(run)
    return True


def _flow_run(client: SyncPrefectClient, store: Store, run: Run) -> str:
    """Make the flow run with its task runs, their states and edges, and its artifacts. Returns its id."""
    flow = client.request("POST", "/flows/", json={"name": run.pipeline}).json()["id"]
    begun = {
        "flow_id": flow, "name": run.id, "idempotency_key": run.id, "parameters": dict(run.parameters),
        "state": {"type": "RUNNING"},
    }  # fmt: skip
    flow_run = str(client.request("POST", "/flow_runs/", json=begun).json()["id"])
    for task in _task_runs(store, run, flow_run):
        client.request("POST", "/task_runs/", json=task)
    kind, name = STATES.get(run.status, ("CRASHED", "Crashed"))
    ended = {"type": kind, "name": name, "message": f"computed nothing; ran from {run.started} to {run.ended}"}
    client.request(
        "POST", "/flow_runs/{id}/set_state", path_params={"id": flow_run}, json={"state": ended, "force": True}
    )
    page = run_page(run.links["mlflow"]) if "mlflow" in run.links else ""
    for artifact in last_artifacts(store, run, page):
        made = artifact_create(artifact, UUID(flow_run)).model_dump(mode="json", exclude_unset=True)
        client.request("POST", "/artifacts/", json=made)  # `create_artifact` opens a websocket besides, for an event
    return flow_run


def _task_runs(store: Store, run: Run, flow_run: str) -> Iterator[dict[str, Any]]:
    """A task run for each step that ended, as Prefect's API takes them; its inputs become edges."""
    steps = [step for step in run.steps.values() if step.state in STATES]
    ids = {step.key: _task_id(run, step) for step in steps if step.key}
    for step in steps:
        record = store.record(step.key) if step.key else None
        fed = [{"input_type": "task_run", "id": ids[key]} for key in _parents(record) if key in ids]
        kind, name = STATES[step.state]
        yield {
            "id": _task_id(run, step), "name": step.title, "flow_run_id": flow_run, "task_key": step.title,
            "dynamic_key": "0", "state": {"type": kind, "name": name, "message": step.reason},
            "task_inputs": {"inputs": fed},
        }  # fmt: skip


def _task_id(run: Run, step: RunStep) -> str:
    return str(uuid5(NAMESPACE_OID, f"{run.id}/{step.id}"))


def _parents(record: Record | None) -> list[str]:
    return list(dict.fromkeys(p.key for several in record.parents.values() for p in several)) if record else []
