"""The Prefect worker of `alignflow serve`: executes registered deployments and refuses everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.runner import runner
from prefect.states import Failed
from prefect.workers.process import ProcessWorker, ProcessWorkerResult

from flows.commands.registered_deployments import difference

EXECUTED = ("command", "env", "working_dir")
"""The settings of a run's process that Prefect combines from the work pool, the deployment and the run's request."""


class Worker(ProcessWorker):
    """Prints when a run begins and how it ended; begins no run once `ending` is set."""

    def __init__(self, *, say: Callable[[str], None], **options: Any) -> None:
        super().__init__(**options)
        self._say = say
        self.ending = False
        self.executing = 0
        self.reports: set[asyncio.Task[None]] = set()
        runner.load_flow_from_flow_run = _no_hooks

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        return [] if self.ending else await super().get_and_submit_flow_runs()

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[WorkerFlowRunResponse]) -> list[FlowRun]:
        """Leave a run that was suspended and is resumed already for the next time, while its former process still ends:
        Prefect 3.7.7 takes one place of its limit twice for it then, and this whole process would end by that."""
        ending = {*self.limiter.statistics().borrowers}
        ready = [entry for entry in flow_run_response if entry.flow_run.id not in ending]
        return await super()._submit_scheduled_flow_runs(ready)

    async def run(self, flow_run: FlowRun, configuration: Any, task_status: Any = None) -> Any:
        title = await self._title(flow_run)
        if why := await self._refusal(title, flow_run, configuration):
            self._report(title, flow_run, f"is refused: {why}")
            await self.client.set_flow_run_state(flow_run.id, Failed(message=f"refused: {why}"), force=True)
            task_status.started(0)
            return ProcessWorkerResult(status_code=0, identifier="refused")
        self._report(title, flow_run, "begins")
        self.executing += 1
        try:
            result = await super().run(flow_run, configuration, task_status)
        finally:
            self.executing -= 1
        report = asyncio.create_task(self._report_end(title, flow_run))
        self.reports.add(report)
        report.add_done_callback(self.reports.discard)
        return result

    def _report(self, title: str, flow_run: FlowRun, text: str) -> None:
        self._say(f"{datetime.now():%H:%M:%S} {title} '{flow_run.name}' {text}")

    async def _report_end(self, title: str, flow_run: FlowRun) -> None:
        """Where the process crashed, it is this worker that sets the last state, after `run`."""
        for _ in range(20):
            state = (await self.client.read_flow_run(flow_run.id)).state
            if state is not None and (state.is_final() or state.is_paused()):
                break
            await asyncio.sleep(0.5)
        self._report(title, flow_run, _ended(state))

    async def _refusal(self, title: str, flow_run: FlowRun, configuration: Any) -> str:
        """Why a run is not executed: its deployment is not as registered, or its process would have other settings."""
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
        differing = [name for name in EXECUTED if getattr(configuration, name) != getattr(plain, name)]
        cause = "the run's own request or the work pool changes"
        return f"{cause} its {' and '.join(differing)}" if differing else ""

    async def _title(self, flow_run: FlowRun) -> str:
        flow = await self.client.read_flow(flow_run.flow_id)
        if flow_run.deployment_id is None:
            return flow.name
        return f"{flow.name}/{(await self.client.read_deployment(flow_run.deployment_id)).name}"


async def _no_hooks(*_: object, **__: object) -> SimpleNamespace:
    """Replaces Prefect's loader of the flow of a run that crashed or was cancelled. Prefect would load the flow into
    this process, by the steps that the server has for it at that moment, to look for hooks; ours have none."""
    return SimpleNamespace(on_crashed_hooks=[], on_cancellation_hooks=[])


def _ended(state: Any) -> str:
    if state is None:
        return "has no state"
    message = " ".join((state.message or "").split())
    return f"is {state.name.lower()}" + (f": {message[:1000]}" if message and not state.is_completed() else "")
