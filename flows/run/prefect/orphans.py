"""Runs, here and in Prefect, that were left open: their process was killed, or their server went away before the end.

A run is open while the status in its file is `running`. A flow run from the command line also holds a lock from before
it is created until Prefect has its last state. A kill leaves the lock's file, with the flow run's tag in it, and the
kernel frees the lock. The next run on that server takes each such lock and closes the flow run with that tag.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from flows.run.events import Listener
from flows.store.runs import Runs
from flows.store.store import Store
from flows.system.locks import HeldLock, holder, try_lock
from tasks.contract import JSON, SpecError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import State

OWN = "the run's own server"
"""Stands for every server that a run starts for itself: they all have the store's one database."""


class OpenFlow:
    """The lock of one flow run that is executed now."""

    def __init__(self, held: HeldLock, about: Mapping[str, JSON]) -> None:
        self._held, self._about = held, about
        self.closed = False
        """Whether Prefect has its last state; else the next run closes it."""

    def over(self, status: str) -> None:
        """Write down how the run ended, for the run that may have to close it."""
        self._held.write(json.dumps({**self._about, "status": status}))


@contextmanager
def open_flow(root: Path, tag: str, server: str) -> Iterator[OpenFlow]:
    """Hold the lock of the flow run with this tag on `server`; unless it is closed, the lock's file stays."""
    about: dict[str, JSON] = {"tag": tag, "server": server, "status": "killed"}
    held = try_lock(root / "locks" / f"flow-{uuid4().hex}.lock", json.dumps(about))
    assert held is not None  # its name is new
    flow = OpenFlow(held, about)
    try:
        yield flow
    finally:
        held.release(keep_file=not flow.closed)


def has_orphans(root: Path, server: str) -> bool:
    """Whether a flow run over this store on this server was left open."""
    return any(_left(root, server))


def close_orphaned_flows(root: Path, server: str) -> None:
    """Close the flow runs on this server that were left open, with the status that their runs ended with."""
    left = list(_left(root, server))
    if not left:
        return
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

    with get_client(sync_client=True) as client:
        for path, about in left:
            if held := try_lock(path, None):
                tags = FlowRunFilterTags(all_=[str(about["tag"])])
                _close(client, FlowRunFilter(tags=tags), _status(root, about))
                held.release()


def close_orphaned_runs(runs: Runs, listener: Listener, *, but: str) -> None:
    """Close the runs whose process was killed: here, in Prefect, and through `Listener.left_open` elsewhere."""
    left = [run for run in runs.open() if run.id != but and runs.adopt(run)]
    if not left:
        return
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        for run in left:
            if "prefect" in run.links:
                ids = FlowRunFilterId(any_=[UUID(run.links["prefect"])])
                _close(client, FlowRunFilter(id=ids), "killed")
            for step in run.steps.values():
                step.state = "stopped" if step.state == "running" else step.state
            listener.left_open(run)
            runs.end(run, "stopped")


def _left(root: Path, server: str) -> Iterator[tuple[Path, dict[str, JSON]]]:
    """Lock files that nobody holds, with their contents."""
    for path in sorted((root / "locks").glob("flow-*.lock")):
        held = try_lock(path, None)
        if not held:
            continue
        about = _read(holder(path))
        held.release(keep_file=bool(about))
        if about.get("server") == server:
            yield path, about


def _read(text: str) -> dict[str, JSON]:
    """Empty for a file whose process was killed before it wrote it, and so before it created a flow run."""
    try:
        about = json.loads(text)
    except ValueError:
        return {}
    return about if isinstance(about, dict) and {"tag", "server", "status"} <= about.keys() else {}


def _status(root: Path, about: Mapping[str, JSON]) -> str:
    """The status of the run whose id is the tag, if it has ended, else that in the lock."""
    with suppress(SpecError):
        run = Runs(Store(root)).load(str(about["tag"]))
        if run.status != "running":
            return run.status
    return str(about["status"])


def _close(client: SyncPrefectClient, which: FlowRunFilter, status: str) -> None:
    """Close the flow runs of a filter except the one that runs this code: a second attempt has the tag of the first."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterType, FlowRunFilter, FlowRunFilterId
    from prefect.runtime import flow_run as this

    flow_runs = [run for run in client.read_flow_runs(flow_run_filter=which) if str(run.id) != this.id]
    for run in flow_runs:
        if run.state is None or not run.state.is_final():
            client.set_flow_run_state(run.id, _state(status), force=True)
    if not flow_runs:
        return
    theirs = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in flow_runs]))
    bars = ArtifactFilter(type=ArtifactFilterType(any_=["progress"]))
    for bar in client.read_artifacts(artifact_filter=bars, flow_run_filter=theirs):
        client.delete_artifact(bar.id)
    for task in client.read_task_runs(flow_run_filter=theirs):
        if task.state is None or not task.state.is_final():
            client.set_task_run_state(task.id, _state("done" if status == "done" else "killed"), force=True)


def _state(status: str) -> State:
    from prefect.states import Cancelled, Completed, Crashed, Failed

    from flows.run.prefect.people import waiting_state

    states = {"done": Completed, "failed": Failed, "stopped": Cancelled}
    late = "its end did not reach Prefect; a later run closed it"
    if status == "waiting":
        return waiting_state(late)
    if status in states:
        return states[status](message=late)
    return Crashed(message="its process was killed; a later run closed it")
