"""Prefect's client: which server it uses, whether that answers, and what is to be sent to it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from flows.run.prefect.password import client_settings, password_file, saved_password
from flows.run.prefect.server import Server, running, settings, under_up
from flows.store.runs import Run
from flows.system.environment import environment, without_password
from tasks.contract import DataError

FLUSH_SECONDS = 20.0
"""How long a finished run waits for its own server to have written all that it received."""


@contextmanager
def own_server(artifacts: Path) -> Iterator[Server | None]:
    """A server that ends with this block, unless PREFECT_API_URL names the user's. Returns before it is up.

    `alignflow up` serves the same database, so its pages show the run; the run does not depend on it.
    Within the block the environment has Prefect's settings and API address.
    Raises DataError if the user's server does not answer.
    """
    with environment(settings(artifacts)):
        if url := os.environ.get("PREFECT_API_URL"):
            with environment(_client(artifacts, url)):
                _require_server("; without PREFECT_API_URL a run starts a server of its own")
                yield None
            return
        server = Server(artifacts, log=artifacts / "logs" / "prefect.log")
        try:
            with environment(server.client):
                yield server
        finally:
            server.stop()


@contextmanager
def users_server(artifacts: Path) -> Iterator[str]:
    """The server that stays: of PREFECT_API_URL, or of `alignflow up` over these artifacts. Yields its API address.

    Within the block Prefect's client uses it. Raises DataError if there is none or it does not answer.
    """
    url = os.environ.get("PREFECT_API_URL") or running(artifacts)
    if not url:
        raise DataError(
            f"there is no Prefect server over {artifacts}: start one with `alignflow up`, or set PREFECT_API_URL to "
            "the address of yours"
        )
    with environment({**settings(artifacts), **_client(artifacts, url)}):
        _require_server("")
        from prefect.settings import temporary_settings

        with temporary_settings(_client_settings()):
            yield url


def _client(artifacts: Path, url: str) -> dict[str, str]:
    """The environment of a client of `url`; its password is known if that is the server of `alignflow up` here.

    Raises DataError if it is, and another user's.
    """
    if not under_up(artifacts, url):
        return {"PREFECT_API_URL": url}
    if password := saved_password(artifacts):
        return client_settings(url, password)
    raise DataError(f"the server at {url} was started by another user: {password_file(artifacts)} cannot be read")


def _client_settings() -> dict[Any, Any]:
    """Prefect's settings for the server that the environment names: settings that were made before the environment
    changed, and threads, do not follow it."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

    return {
        PREFECT_API_URL: os.environ["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: os.environ.get("PREFECT_API_AUTH_STRING"),
    }


def _require_server(hint: str) -> None:
    """Raise DataError if no Prefect server answers at PREFECT_API_URL, or if it refuses the password."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import temporary_settings

    url = without_password(os.environ["PREFECT_API_URL"])
    with temporary_settings(_client_settings()), get_client(sync_client=True) as client:
        if (error := client.api_healthcheck()) is not None:
            raise DataError(f"no Prefect server answers at {url} ({' '.join(str(error).split())[:120]}){hint}")
        try:
            client.read_flows(limit=1)  # unlike the health check, it needs the password
        except PrefectHTTPStatusError as e:
            if e.response.status_code not in (401, 403):
                raise
            raise DataError(
                f"the Prefect server at {url} refuses this user: set PREFECT_API_AUTH_STRING to its password, or "
                f"PREFECT_API_KEY to its key{hint}"
            ) from None


@contextmanager
def prefect_settings() -> Iterator[None]:
    """Prefect's client for a run from the command line.

    The heartbeat costs every flow run a second and is for deployments; no variable can switch it off.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    try:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, **_client_settings()}):
            yield
    finally:
        send_pending()


def send_pending() -> None:
    """Send the events and logs that Prefect's threads still hold, while the server is there to take them."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=10)
    APILogWorker.drain_all(timeout=5)


def parameters_of_this_run() -> set[str] | None:
    """Names of the parameters in the request for the flow run that this process executes; None if it executes none."""
    from prefect.client.orchestration import get_client

    flow_run = os.environ.get("PREFECT__FLOW_RUN_ID")
    if not flow_run:
        return None
    with get_client(sync_client=True) as client:
        return set(client.read_flow_run(UUID(flow_run)).parameters)


def name_this_run(run: str) -> None:
    """Put a run's id before the name of the flow run that this process executes for a deployment; with several ticks,
    the id of the last one."""
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    if os.environ.get("PREFECT__FLOW_RUN_ID"):
        given = str(flow_run.name).rpartition(" · ")[2]
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, name=f"{run} · {given}")


def wait_until_flushed(*runs: Run) -> None:
    """Wait until our own server has written the last states of a flow run, which Prefect sends in the background."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    flow_runs = {UUID(run.links["prefect"]) for run in runs if "prefect" in run.links}
    if not flow_runs:
        return
    send_pending()
    flow_run = FlowRunFilter(id=FlowRunFilterId(any_=[*flow_runs]))
    ended = sum(s.state in {"hit", "made", "failed", "waiting"} for run in runs for s in run.steps.values())
    end = time.monotonic() + FLUSH_SECONDS
    with get_client(sync_client=True) as client:
        while time.monotonic() < end:
            states = [t.state for t in client.read_task_runs(flow_run_filter=flow_run)]
            if sum(s is not None and s.is_final() for s in states) >= ended:
                return
            time.sleep(0.05)
