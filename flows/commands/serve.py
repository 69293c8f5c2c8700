"""`alignflow serve`: executes the scheduled and requested runs of deployments, until Ctrl-C or SIGTERM.

It is a Prefect process worker of our work pool: every run is a process of its own, which takes the devices
like any other run. At a signal it starts nothing more, stops its runs as Ctrl-C stops `alignflow run`, waits for them,
and then ends; what they finished is kept, and the next run goes on there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import catch_warnings

import psutil

from flows.commands.deploy import make_pool, registered
from flows.commands.deployments import POOL
from flows.commands.printing import short_path
from flows.commands.registered_deployments import difference
from flows.run.prefect.api import users_server
from flows.system.environment import environment, python_path

if TYPE_CHECKING:
    from flows.commands.serve_worker import Worker

POLL_SECONDS = "2"
"""How often it asks for new runs; Prefect's own is 10."""
LIMIT = 4
"""Runs at a time. Their heavy steps go one by one in any case; each waiting run holds about half a gigabyte."""
STOP_SECONDS = 60.0
"""How long a run may take to stop before it is killed, which loses nothing but its log's last lines."""
REPORT_SECONDS = 5.0

Say = Callable[[str], None]


def serve_deployments(artifacts: Path, *, pool: str = POOL, limit: int = LIMIT) -> None:
    """Execute runs until a signal, and print when each begins and ends; their own output goes to `logs/serve.log`.

    `artifacts`: where this process finds the server of `alignflow up` and writes its log. Each run has the file and the
    artifacts of its deployment.

    Raises DataError where no server answers, SpecError for a work pool of another type.
    """
    say = partial(print, file=sys.stdout, flush=True)
    artifacts = artifacts.absolute()  # Prefect changes the directory of this process where a run crashes
    log = artifacts / "logs" / "serve.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    settings = {"PREFECT_WORKER_QUERY_SECONDS": POLL_SECONDS, "PYTHONPATH": python_path(), "PYTHONWARNINGS": "ignore"}
    with environment(settings), users_server(artifacts) as url:
        with catch_warnings(action="ignore"):  # Prefect warns that our worker replaces the one of its type
            from flows.commands.serve_worker import Worker
        say(f"serving the work pool '{pool}' of {url}; output of the runs: {short_path(log)}")
        _introduce(pool, say)
        worker = Worker(work_pool_name=pool, name=f"alignflow-{os.getpid()}", limit=limit, say=say)
        with log.open("a") as output, redirect_stdout(output), redirect_stderr(output):
            asyncio.run(_work(worker, say))


def _introduce(pool: str, say: Say) -> None:
    """Make the work pool unless it exists, and print what it serves."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        make_pool(client, pool)
        served = [(title, d) for title, d in registered(client) if d.work_pool_name == pool]
    scheduled = ", ".join(title for title, d in served if d.schedules) or "none of them"
    say(f"{len(served)} deployments (on a schedule: {scheduled}); `alignflow deploy` may change them at any time")
    for title, d in served:
        if why := difference(title, d):
            say(f"  ! runs of {title} are refused: {why}; `alignflow deploy` registers it anew")
    say("Ctrl-C ends this and stops its runs; the next run of the same goes on where they were.")


async def _work(worker: Worker, say: Say) -> None:
    """Run the worker until a signal; then end its runs first, and it last."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, ending.set)
    working = asyncio.create_task(worker.start(printer=lambda _: None))
    waiting = asyncio.create_task(ending.wait())
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if working.done():
        working.result()
        return
    worker.ending = True
    await _stop_runs(say)
    end = time.monotonic() + REPORT_SECONDS
    while worker.executing and time.monotonic() < end:  # it checks ten times a second whether a process has ended
        await asyncio.sleep(0.05)
    if worker.reports:
        await asyncio.wait(worker.reports, timeout=REPORT_SECONDS)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def _stop_runs(say: Say) -> None:
    runs = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    if runs:
        say(f"stopping {len(runs)} run{'s' if len(runs) > 1 else ''}")
    for run in runs:
        run.terminate()
    _, left = await asyncio.to_thread(psutil.wait_procs, runs, STOP_SECONDS)
    if left:
        say(f"killing {len(left)} that did not stop within {STOP_SECONDS:.0f} s; what is finished is kept")
    for process in [p for run in left for p in _with_descendants(run)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _with_descendants(run: psutil.Process) -> list[psutil.Process]:
    """A run and all that it started; a step's process has a group of its own, and so would outlive the run's."""
    with suppress(psutil.NoSuchProcess):
        return [*run.children(recursive=True), run]
    return []
