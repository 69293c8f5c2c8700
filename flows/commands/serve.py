"""`alignflow serve`: executes the scheduled and requested runs of deployments, until Ctrl-C or SIGTERM.

A Prefect process worker of our work pool: every run is a process of its own, which takes the machine's heavy slot like
any other run. When it is to end, it starts nothing more, stops the runs as Ctrl-C stops `alignflow run`, waits for
them, and only then ends; what they finished is kept, and the next run goes on there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings

import psutil

from flows.commands.deploy import POOL, make_pool, registered
from flows.commands.progress import short_path
from flows.commands.registered_deployments import difference
from flows.run.prefect.api import users_server
from flows.system.environment import environment, python_path

if TYPE_CHECKING:
    from prefect.workers.process import ProcessWorker

POLL_SECONDS = "2"
"""How often it asks for new runs; Prefect's own is 10."""
LIMIT = 4
"""Runs at a time. Their heavy steps go one by one, whatever this is; each waiting run holds about half a gigabyte."""
STOP_SECONDS = 60.0
"""How long a run may take to stop before it is killed, which loses nothing but its log's last lines."""
REPORT_SECONDS = 5.0
EXECUTED = ("command", "env", "working_dir")
"""What Prefect puts together for a run's process, from the work pool, the deployment and the run's request."""

Say = Callable[[str], None]


def serve_deployments(artifacts: Path, *, file: Path | None = None, pool: str = POOL, limit: int = LIMIT) -> None:
    """Execute runs until a signal, and print when each begins and ends; their own output goes to `logs/serve.log`.

    Each run has its own file and artifacts, those that it was deployed with; `file` and `artifacts` are this process's.

    Raises DataError where no server answers, SpecError for a work pool of another type.
    """
    say = partial(print, file=sys.stdout, flush=True)
    artifacts = artifacts.absolute()  # Prefect changes the directory of this process where a run crashes
    log = artifacts / "logs" / "serve.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    quiet = {"PREFECT_WORKER_QUERY_SECONDS": POLL_SECONDS, "PYTHONPATH": python_path(), "PYTHONWARNINGS": "ignore"}
    here = {"ALIGNFLOW_ARTIFACTS": str(artifacts), **({"ALIGNFLOW_FILE": str(file)} if file else {})}
    with environment(quiet | here), users_server(artifacts) as url:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            make_pool(client, pool)
            served = [(title, d) for title, d in registered(client) if d.work_pool_name == pool]
        say(f"serving the work pool '{pool}' of {url}; what runs print: {short_path(log)}")
        scheduled = ", ".join(title for title, d in served if d.schedules) or "none of them"
        say(f"{len(served)} deployments (on a schedule: {scheduled}); `alignflow deploy` changes them, now if you like")
        for title, d in served:
            if why := difference(title, d):
                say(f"  ! runs of {title} are refused: {why}; `alignflow deploy` registers it anew")
        say("Ctrl-C ends this and stops its runs; the next run of the same goes on where they were.")
        with log.open("a") as output, redirect_stdout(output), redirect_stderr(output):
            asyncio.run(_work(_worker(pool, limit, say), say))


def _worker(pool: str, limit: int, say: Say) -> ProcessWorker:
    from prefect.client.schemas.objects import FlowRun
    from prefect.runner import runner
    from prefect.states import Failed
    from prefect.workers.process import ProcessWorker, ProcessWorkerResult

    runner.load_flow_from_flow_run = _no_hooks
    with catch_warnings(action="ignore"):  # Prefect warns that it replaces the one of its type

        class Worker(ProcessWorker):
            """Executes what `alignflow deploy` registered, and says what it begins and how it ended; begins nothing
            once `ending`."""

            ending = False

            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                self.executing = 0
                self.reports: set[asyncio.Task[None]] = set()

            async def get_and_submit_flow_runs(self) -> list[FlowRun]:
                return [] if self.ending else await super().get_and_submit_flow_runs()

            async def run(self, flow_run: FlowRun, configuration: Any, task_status: Any = None) -> Any:
                title = await self._title(flow_run)
                if why := await self._refusal(title, flow_run, configuration):
                    _say_at(say, f"{title} '{flow_run.name}' is refused: {why}")
                    await self.client.set_flow_run_state(flow_run.id, Failed(message=f"refused: {why}"), force=True)
                    task_status.started(0)
                    return ProcessWorkerResult(status_code=0, identifier="refused")
                _say_at(say, f"{title} '{flow_run.name}' begins")
                self.executing += 1
                try:
                    result = await super().run(flow_run, configuration, task_status)
                finally:
                    self.executing -= 1
                report = asyncio.create_task(self._report_end(title, flow_run))
                self.reports.add(report)
                report.add_done_callback(self.reports.discard)
                return result

            async def _report_end(self, title: str, flow_run: FlowRun) -> None:
                """Where the process crashed, it is this worker that sets the last state, after `run`."""
                for _ in range(20):
                    state = (await self.client.read_flow_run(flow_run.id)).state
                    if state is not None and state.is_final():
                        break
                    await asyncio.sleep(0.5)
                _say_at(say, f"{title} '{flow_run.name}' {_ended(state)}")

            async def _refusal(self, title: str, flow_run: FlowRun, configuration: Any) -> str:
                """Why a run is not executed: it is not as registered, or would not be executed as that says."""
                if flow_run.deployment_id is None:
                    return "it is of no deployment"
                deployment = await self.client.read_deployment(flow_run.deployment_id)
                if why := difference(title, deployment):
                    return why
                plain = await self.job_configuration.from_template_and_values(
                    self.get_default_base_job_template(), deployment.job_variables, client=self.client
                )
                plain.prepare_for_flow_run(
                    flow_run, deployment, await self.client.read_flow(flow_run.flow_id), self.work_pool, self.name,
                    worker_id=self.backend_id,
                )  # fmt: skip
                differing = [n for n in EXECUTED if getattr(configuration, n) != getattr(plain, n)]
                cause = "the run's own request or the work pool changes"
                return f"{cause} its {' and '.join(differing)}" if differing else ""

            async def _title(self, flow_run: FlowRun) -> str:
                flow = await self.client.read_flow(flow_run.flow_id)
                if flow_run.deployment_id is None:
                    return flow.name
                return f"{flow.name}/{(await self.client.read_deployment(flow_run.deployment_id)).name}"

    return Worker(work_pool_name=pool, name=f"alignflow-{os.getpid()}", limit=limit)


async def _no_hooks(*_: object, **__: object) -> SimpleNamespace:
    """Stands for the flow of a run that crashed or was cancelled. Prefect would load it into this process, by the steps
    that the server has for it at that moment, to look for hooks; flows of pipelines have none."""
    return SimpleNamespace(on_crashed_hooks=[], on_cancellation_hooks=[])


def _ended(state: Any) -> str:
    if state is None:
        return "has no state"
    message = " ".join((state.message or "").split())
    return f"is {state.name.lower()}" + (f": {message[:1000]}" if message and not state.is_completed() else "")


def _say_at(say: Say, text: str) -> None:
    say(f"{datetime.now():%H:%M:%S} {text}")


async def _work(worker: Any, say: Say) -> None:
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
    while worker.executing and time.monotonic() < end:  # it looks ten times a second whether a process has ended
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
