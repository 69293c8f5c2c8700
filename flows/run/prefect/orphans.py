"""Flow runs that nobody ends any more: their process was killed, or their server went away before the end.

A flow run from the command line holds a lock from before it is created until Prefect has its last state. A kill leaves
the lock's file, with the flow run's name in it, and the kernel frees the lock. The next run on that server takes each
such lock and closes the flow run of that name, or with that tag (a flow run is created with its tag and named later),
whatever was recorded of it elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from flows.store.runs import Runs
from flows.store.store import Store
from flows.system.locks import HeldLock, holder, try_lock
from tasks.contract import JSON, SpecError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import State

OWN = "the run's own server"
"""Stands for every server that a run brings along: they all have the store's one database."""


class OpenFlow:
    """The lock of one flow run that is at work."""

    def __init__(self, held: HeldLock, about: Mapping[str, JSON]) -> None:
        self._held, self._about = held, about
        self.closed = False
        """Whether Prefect has its last state; else the next run closes it."""

    def over(self, status: str) -> None:
        """Its steps are over: how the run ended, for whoever has to close it."""
        self._held.write(json.dumps({**self._about, "status": status}))


@contextmanager
def open_flow(root: Path, name: str, server: str) -> Iterator[OpenFlow]:
    """Hold the lock of the flow run `name` on `server` over the store at `root`; its file stays unless it is closed."""
    about: dict[str, JSON] = {"name": name, "server": server, "status": "killed"}
    held = try_lock(root / "locks" / f"flow-{uuid4().hex}.lock", json.dumps(about))
    assert held is not None  # nobody else has this name
    flow = OpenFlow(held, about)
    try:
        yield flow
    finally:
        held.release(keep_file=not flow.closed)


def has_orphans(root: Path, server: str) -> bool:
    """Whether a flow run over this store on this server did not come to its end, and nobody has closed it."""
    return any(_left(root, server))


def close_orphaned_flows(root: Path, server: str) -> None:
    """Close the flow runs on this server that nobody ends any more, as their runs ended."""
    left = list(_left(root, server))
    if not left:
        return
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName, FlowRunFilterTags

    with get_client(sync_client=True) as client:
        for path, about in left:
            if held := try_lock(path, None):
                name = [str(about["name"])]
                for which in (
                    FlowRunFilter(name=FlowRunFilterName(any_=name)), FlowRunFilter(tags=FlowRunFilterTags(all_=name))
                ):  # fmt: skip
                    _close(client, which, _status(root, about))
                held.release()


def crash(client: SyncPrefectClient, flow_run_id: str) -> None:
    """Close the flow run of a killed run by its id, if it is on this server and still open."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    _close(client, FlowRunFilter(id=FlowRunFilterId.model_validate({"any_": [flow_run_id]})), "killed")


def _left(root: Path, server: str) -> Iterator[tuple[Path, dict[str, JSON]]]:
    """Lock files that nobody holds, with what they say."""
    for path in sorted((root / "locks").glob("flow-*.lock")):
        held = try_lock(path, None)
        if not held:
            continue
        about = _read(holder(path))
        held.release(keep_file=bool(about))
        if about.get("server") == server:
            yield path, about


def _read(text: str) -> dict[str, JSON]:
    """Empty for a file whose process was killed before it wrote, and so before it made a flow run."""
    try:
        about = json.loads(text)
    except ValueError:
        return {}
    return about if isinstance(about, dict) and {"name", "server", "status"} <= about.keys() else {}


def _status(root: Path, about: Mapping[str, JSON]) -> str:
    """How it ended: as the file of the run of its name says, if that came to an end, else as its lock does."""
    with suppress(SpecError):
        run = Runs(Store(root)).load(str(about["name"]))
        if run.status in ("done", "failed", "stopped"):
            return run.status
    return str(about["status"])


def _close(client: SyncPrefectClient, which: FlowRunFilter, status: str) -> None:
    """Close what fits, but not the flow run that this code runs in: a second attempt has the name of the first."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterType, FlowRunFilter, FlowRunFilterId
    from prefect.runtime import flow_run as this

    found = [run for run in client.read_flow_runs(flow_run_filter=which) if str(run.id) != this.id]
    for run in found:
        if run.state is None or not run.state.is_final():
            client.set_flow_run_state(run.id, _state(status), force=True)
    if not found:
        return
    theirs = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in found]))
    bars = ArtifactFilter(type=ArtifactFilterType(any_=["progress"]))
    for bar in client.read_artifacts(artifact_filter=bars, flow_run_filter=theirs):
        client.delete_artifact(bar.id)
    for task in client.read_task_runs(flow_run_filter=theirs):
        if task.state is None or not task.state.is_final():
            client.set_task_run_state(task.id, _state("done" if status == "done" else "killed"), force=True)


def _state(status: str) -> State:
    from prefect.states import Cancelled, Completed, Crashed, Failed

    states = {"done": Completed, "failed": Failed, "stopped": Cancelled}
    if status in states:
        return states[status](message="its end did not reach Prefect; a later run closed it")
    return Crashed(message="its process was killed; a later run closed it")
