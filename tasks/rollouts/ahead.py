"""Where an iteration's answers come from: the policy as it is, or a thread beside the training that samples and scores
the next ones while the networks learn from the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, Generic, Protocol, TypeVar

import torch

from tasks.contract import Workspace
from tasks.rollouts.answers import Feedback
from tasks.sampling.requests import Engine, OnProgress, Options, Request, SampledAnswer

T = TypeVar("T")
Ended = Callable[[str], None]
PATIENCE = 10.0
"""Seconds for which an ended training waits until the thread has left the engine: one token's time is enough. A thread
that waits for an oracle is left behind; it touches the engine no more."""


class TrainingEnded(Exception):
    """The training has ended, and nobody wants what this thread computes."""


class Ahead(Generic[T]):
    """One thread that runs one call at a time: whatever belongs to a thread, such as a database connection, is made
    once. On a GPU its kernels have a stream of their own, beside those of the training."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], T] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="rollouts", daemon=True)
        self._thread.start()

    def begin(self, call: Callable[[], T]) -> None:
        """Start a call in the thread; `result` must be called before the next one."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the call reads what this thread has written
        self._calls.put(call)

    def result(self) -> T:
        """What the call returned, as soon as it has. Raises what it raised."""
        value, error = self._results.get()
        if error is not None:
            raise error
        result: T = value
        return result

    def check(self) -> None:
        """To be called in the thread, often: raises TrainingEnded where `stop` was called."""
        if self._stopping.is_set():
            raise TrainingEnded

    def stop(self, seconds: float) -> bool:
        """End the call at its next `check`, and wait so long for that at most. Returns whether the thread has ended."""
        self._stopping.set()
        self._calls.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with _own_stream():
            while (call := self._calls.get()) is not None:
                try:
                    self._results.put((call(), None))
                except BaseException as error:
                    self._results.put((None, error))


def _own_stream() -> AbstractContextManager[Any]:
    return torch.cuda.stream(torch.cuda.Stream()) if torch.cuda.is_available() else nullcontext()


class CheckedEngine:
    """An engine in the thread, whose sampling ends where the training has ended."""

    def __init__(self, engine: Engine, check: Callable[[], None]) -> None:
        self._engine, self._check = engine, check

    def generate(self, requests: Sequence[Request], options: Options, on_progress: OnProgress) -> list[SampledAnswer]:
        def checked(finished: int) -> None:
            self._check()
            on_progress(finished)

        self._check()
        return self._engine.generate(requests, options, checked)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class LockedWorkspace:
    """A workspace to which two threads may report. See `tasks.contract.Workspace`."""

    def __init__(self, work: Workspace) -> None:
        self._work, self._lock = work, Lock()
        self.path, self.output, self.answers = work.path, work.output, work.answers

    def progress(self, done: float, total: float, unit: str = "") -> None:
        with self._lock:
            self._work.progress(done, total, unit)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        with self._lock:
            self._work.log(step, metrics)

    def count(self, **metrics: float) -> None:
        with self._lock:
            self._work.count(**metrics)

    def notice(self, text: str) -> None:
        with self._lock:
            self._work.notice(text)


class AnswerSource(Protocol):
    """Where the answers come from that an iteration learns from."""

    def of(self, iteration: int, ended: Ended) -> Feedback:
        """The answers of an iteration, and what the oracle says of them. Called for one iteration after the other.

        ended: receives the name of what the time since the last call went to.
        """
        ...

    def pending(self) -> Feedback | None:
        """The answers of the next iteration if they are sampled already: a checkpoint must hold them."""
        ...

    def stop(self) -> None:
        """Leave the engine alone from now on."""
        ...


class OnPolicy:
    """Answers of the policy as it is: nothing is sampled before its last update is made."""

    def __init__(
        self, update: Callable[[], None], draw: Callable[[int, Ended], Feedback], rest: Callable[[], None]
    ) -> None:
        """update: gives the engine the policy's weights. draw: samples and scores an iteration's answers. rest: lets
        the engine free memory until the next update."""
        self._update, self._draw, self._rest = update, draw, rest

    def of(self, iteration: int, ended: Ended) -> Feedback:
        self._update()
        ended("push")
        feedback = self._draw(iteration, ended)
        self._rest()
        return feedback

    def pending(self) -> Feedback | None:
        return None

    def stop(self) -> None:
        pass


class OneAhead:
    """Answers of the policy as it was before its last update: those of iteration i + 1 are sampled and scored by the
    policy that iteration i starts from, while it learns. Those of the first two iterations are the same policy's."""

    def __init__(
        self,
        update: Callable[[], None],
        draw: Callable[[int, Callable[[], None]], Feedback],
        iterations: int,
        pending: Feedback | None,
    ) -> None:
        """draw: samples and scores an iteration's answers, in a thread, and often calls what it is given. pending: the
        answers of the first iteration that is called for, where a checkpoint has them."""
        self._update, self._draw, self._iterations = update, draw, iterations
        self._ahead: Ahead[Feedback] = Ahead()
        self._begun = False
        self._pending = pending

    def of(self, iteration: int, ended: Ended) -> Feedback:
        feedback = self.pending()
        ended("draw")
        self._update()
        ended("push")
        if feedback is None:
            self._begin(iteration)
            feedback = self.pending()
            ended("draw")
        assert feedback is not None
        self._pending = None
        if iteration + 1 < self._iterations:
            self._begin(iteration + 1)
        return feedback

    def pending(self) -> Feedback | None:
        if self._begun:
            self._begun = False
            self._pending = self._ahead.result()
        return self._pending

    def stop(self) -> None:
        self._ahead.stop(PATIENCE)

    def _begin(self, iteration: int) -> None:
        self._ahead.begin(lambda: self._draw(iteration, self._ahead.check))
        self._begun = True
