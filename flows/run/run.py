"""From a compiled graph to a Prefect flow run: one task run per step, hits shown as Cached, all of it recorded.

Prefect schedules, retries and shows; what a step does, and whether it need be done, is decided in `steps`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flows.run.events import CompositeListener, Listener
from flows.run.executors.base import Executor, Stopped
from flows.run.executors.forkserver import Workers
from flows.run.executors.snapshot import copied, snapshot
from flows.run.prefect.api import name_this_run, own_server
from flows.run.prefect.flow_run import FlowCall, Form
from flows.run.prefect.orphans import close_orphaned_runs
from flows.run.prefect.people import flow_result
from flows.run.step import StepOutcome, Steps
from flows.store.finished import FinishedStep
from flows.store.keys import Choices
from flows.store.records import Record
from flows.store.runs import Run, Runs, RunStep, Status, near_names
from flows.store.store import Store
from flows.system.disk import blaming_the_disk
from flows.wiring.machine import usable_gpus
from flows.wiring.model import Graph, Node
from tasks.contract import DataError, SpecError, Waiting

SIGNALS_SECONDS = 0.3
"""How long the main thread waits before it checks again whether Ctrl-C was pressed."""
SAVED_SECONDS = 0.5
"""How often the run's file is written while steps run; what a kill loses of it is in the records."""


class Execution:
    """One run of a graph: the run file, the snapshot, the workers. A context manager; `body` runs inside a flow."""

    def __init__(
        self, graph: Graph, store: Store,
        *, fresh: Sequence[str] = (), listeners: Sequence[Listener] = (), threads: int | None = None, retries: int = 1,
        deployment: str = "",
    ) -> None:  # fmt: skip
        """`fresh`: steps to recompute, as addresses or names; `retries`: of failures that no user's mistake caused."""
        self.graph, self.store, self._retries = graph, store, retries
        self._fresh = frozenset(i for name in fresh for i in steps_named(graph, name))
        self._threads, self._deployment = threads, deployment
        self.listener = CompositeListener(listeners)
        self._stack = ExitStack()
        self.runs = Runs(store)
        self.values = {name: parameter.value for name, parameter in graph.parameters.items()}
        self.records: dict[str, Record] = {}
        self.done: dict[str, FinishedStep] = {}
        self.errors: dict[str, Exception] = {}
        self.waiting: dict[str, str] = {}
        """By step, what people have to do before it can go on."""
        self.run: Run
        self.seconds = 0.0
        """How long it took, once it is finished; what Prefect receives afterwards does not count."""
        self._began = time.monotonic()
        self._tries: dict[str, int] = {}
        self._saved = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Execution:
        graph = self.graph
        self.run = self.runs.begin(graph.pipeline, self.values, file=graph.file, deployment=self._deployment)
        self.run.rounds, self.run.headline, self.run.notices = graph.rounds, graph.headline, list(graph.notices)
        self.run.about = graph.about
        self.run.steps = {
            n.id: RunStep(n.id, n.addresses, n.task, n.title, n.round, fed_by=n.sources) for n in graph.nodes.values()
        }
        try:
            self._begin()
        except BaseException:
            self.finish()
            raise
        return self

    def _begin(self) -> None:
        self.logs = self.store.root / "logs" / self.run.id
        code = self._stack.enter_context(snapshot(self.graph.packages, self.store.root))
        folder = Path(self.graph.file).absolute().parent if self.graph.file else Path.cwd()
        choices = Choices(self.store.code(copied(self.graph.packages, code)), self.store.contents, folder, online=True)
        log = self.logs / "forkserver.log"
        self.workers: Executor = Workers(
            code, log, f"{self.run.id} in {self.store.root}", folder=folder, threads=self._threads,
            gpus=usable_gpus(), most_gpus=self.graph.profile.gpus,
        )  # fmt: skip
        self._stack.callback(self.workers.close)
        self.steps = Steps(
            self.graph, self.store, choices, self.workers, self.listener, logs=self.logs, fresh=self._fresh
        )
        self.steps.prepare()

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """End the children and close the run's file; a second call does nothing."""
        self._stack.close()
        if self.run.status != "running":
            return
        self.seconds = time.monotonic() - self._began
        with self._lock:  # a thread may still be about to mark its step
            for step in self.run.steps.values():
                step.state = {"pending": "skipped", "running": "stopped"}.get(step.state, step.state)
        self.store.contents.save()
        self.runs.end(self.run, self._status())
        self.listener.run_finished(self.run)

    def _status(self) -> Status:
        if len(self.done) == len(self.graph.nodes):
            return "done"
        if self.errors:
            return "failed"
        stopped = any(step.state == "stopped" for step in self.run.steps.values())
        return "waiting" if self.waiting and not stopped else "stopped"

    def body(self) -> list[Any]:
        """Inside a flow run: submit every step, inputs first; wait; return all futures, so that a failure shows.

        Runs that were killed earlier are closed first. At the end this run is finished.
        """
        from prefect.runtime import flow_run

        try:
            close_orphaned_runs(self.runs, self.listener, but=self.run.id)
            self.run.links["prefect"] = str(flow_run.id)
            name_this_run(self.run.id)
            self.listener.run_started(self.run, self.graph, self.logs)
            self.runs.save(self.run)
            with self._signals():
                return self._all_steps()
        finally:
            self.finish()

    def _all_steps(self) -> list[Any]:
        from prefect import Task
        from prefect.cache_policies import NO_CACHE

        futures: dict[str, Any] = {}
        for node in self.graph.nodes.values():
            task = Task(
                fn=self._task, name=node.title, task_run_name=node.title, cache_policy=NO_CACHE, persist_result=False,
                retries=self._retries, retry_condition_fn=_may_succeed_later,
            )  # fmt: skip
            futures[node.id] = task.submit(node.id, [futures[i] for i in node.sources])
        for future in futures.values():
            while not future.wrapped_future.done():  # polars's SIGINT handler would never end an endless wait
                future.wait(SIGNALS_SECONDS)
        return list(futures.values())

    def find_all(self) -> None:
        """Take every step from the store, in order, without Prefect; one that is gone by now is made.

        The first step that fails ends it, and Ctrl-C: see the run's status.
        """
        self._retries = 0
        self.listener.run_started(self.run, self.graph, self.logs)
        try:
            with self._signals():
                for node in self.graph.nodes.values():
                    self.step(node)
        except KeyboardInterrupt:
            pass
        except Exception:
            if not self.errors and not self.waiting:  # `step` keeps the error of a step
                raise

    def _task(self, step: str, inputs: list[str]) -> Any:
        """What Prefect runs for one step. It draws its edges by `inputs`, the contents of the steps before."""
        from prefect.states import Cancelled, Completed

        from flows.run.prefect.people import waiting_state

        node = self.graph.nodes[step]
        try:
            outcome = self.step(node)
        except Waiting as e:
            return waiting_state(str(e))
        except Stopped:
            self._mark(node, "stopped")
            return Cancelled(message="the run was stopped")
        content = outcome.record.content
        if not outcome.hit:
            return content
        return Completed(name="Cached", message=f"reused {content[:12]}: {outcome.reason}", data=content)

    def step(self, node: Node) -> StepOutcome:
        """Take the result of one step from the store or make it, and record it in the run's file."""
        inputs = {port: [self.records[i] for i in ids] for port, ids in node.inputs.items()}
        self._mark(node, "running")
        try:
            outcome = self.steps.run(node, inputs)
        except Exception as e:
            self._failed(node, e)
            raise
        record = outcome.record
        self.records[node.id] = record
        self.done[node.id] = FinishedStep(node.addresses, node.round, record, outcome.hit)
        self.errors.pop(node.id, None)
        self.waiting.pop(node.id, None)
        self._mark(
            node, "hit" if outcome.hit else "made", key=record.key, content=record.content, kind=record.kind,
            seconds=record.seconds, reason=outcome.reason,
        )  # fmt: skip
        self.listener.step_finished(node, record, hit=outcome.hit, reason=outcome.reason)
        return outcome

    def _failed(self, node: Node, error: Exception) -> None:
        if isinstance(error, Stopped):
            return
        if isinstance(error, Waiting):
            self.waiting[node.id] = str(error)
            self._mark(node, "waiting", reason=str(error))
            self.listener.step_awaits_people(node, str(error))
            return
        self._tries[node.id] = self._tries.get(node.id, 0) + 1
        if isinstance(error, SpecError | DataError) or self._tries[node.id] > self._retries:
            self.errors[node.id] = error
            self._mark(node, "failed", reason=str(error))
            self.listener.step_failed(node, error)

    def _mark(self, node: Node, state: str, **facts: Any) -> None:
        with self._lock:
            step = self.run.steps[node.id]
            step.state = state
            for name, value in facts.items():
                setattr(step, name, value)
            if time.monotonic() - self._saved > SAVED_SECONDS:
                self.runs.save(self.run)
                self._saved = time.monotonic()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM kill the children, then unwind; a second one leaves at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(number: int, frame: object) -> None:
            if self.workers.stopped.is_set():
                os._exit(130)
            self.workers.stopped.set()
            stop = self.workers.stop
            threading.Thread(target=stop).start()  # this thread may hold a lock that `stop` takes
            raise KeyboardInterrupt

        before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_pipeline(execution: Execution, say: Callable[[str], None] = print) -> Execution:
    """Run a graph as a Prefect flow, with a server of our own unless PREFECT_API_URL is set.

    Returns the execution when all is over: `run.status` is done, failed, stopped (Ctrl-C, SIGTERM) or waiting, and
    `done`, `errors` and `waiting` hold what each step came to. Raises SpecError for a choice whose identity is unknown.
    """
    graph, root = execution.graph, execution.store.root
    with blaming_the_disk(root), own_server(root) as server, execution:
        form = Form(graph.pipeline, graph.about, graph.parameters, execution.values, execution.run.id)

        def body() -> Any:
            return flow_result(execution.body(), [execution.run])

        FlowCall(root, server, form, body, runs=lambda: [execution.run], say=say).run()
    return execution


def run_cached(execution: Execution) -> Execution:
    """Record a run of a graph whose steps are all in the store, without a Prefect server.

    Starting one takes longer than all the rest of such a run; `prefect_mirror` brings it to Prefect later.
    """
    with blaming_the_disk(execution.store.root), execution:
        execution.find_all()
    return execution


def steps_named(graph: Graph, name: str) -> list[str]:
    """Ids of the steps that STEP names: `policy@2`, `policy` (all rounds), `report` (a composite: all inside it).

    Raises SpecError.
    """
    base, _, round = name.partition("@")

    def fits(address: str) -> bool:
        step, _, at = address.partition("@")
        return (step == base or step.startswith(base + "/")) and (not round or at == round)

    ids = list(dict.fromkeys(id for address, id in graph.addresses.items() if fits(address)))
    if not ids:
        known = (address.split("@")[0] for address in graph.addresses)
        raise SpecError(f"{graph.pipeline} has no step '{name}'{near_names(base, known)}")
    return ids


def _may_succeed_later(task: Any, run: Any, state: Any) -> bool:
    """Whether Prefect shall try again: a user's mistake stays one."""
    return not isinstance(state.data, SpecError | DataError)
