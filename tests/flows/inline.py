"""Runs without other processes: tasks in this one, steps one after the other, no Prefect."""

import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

import tasks
from flows.run import run as execute
from flows.run.executors.base import LIGHT, Events, Needs
from flows.run.executors.job import Job, Result
from flows.run.executors.worker import perform


class Inline:
    """An executor that runs each job where it is called. Its tasks come from the run's snapshot."""

    threads = 1

    def __init__(self, snapshot: Path, *_: object, **__: object) -> None:
        self.stopped = threading.Event()
        for name in [name for name in sys.modules if name in ("tasks.loop", "tasks.tiny")]:
            del sys.modules[name]
        tasks.__path__[1:] = [str(snapshot / "tasks")]

    def start(self, packages: list[str]) -> None:
        """All is imported where it is needed."""

    def submit(
        self, job: Job, events: Events, needs: Needs = LIGHT, *, check: Callable[[], None] = lambda: None, **_: object
    ) -> Result:  # fmt: skip
        events("started")
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("a") as log, redirect_stdout(log), redirect_stderr(log):
            result = perform(job, events)
        check()
        return result

    def stop(self) -> None:
        self.stopped.set()

    def close(self) -> None:
        del tasks.__path__[1:]


def run_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every execution of this process runs like this."""

    def body(execution: execute.Execution) -> list[Any]:
        try:
            execution.find_all()
        finally:
            execution.finish()
        return []

    monkeypatch.setattr(execute, "Workers", Inline)
    monkeypatch.setattr(execute.Execution, "body", body)
