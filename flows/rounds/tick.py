"""Ticks of a continuing deployment, inside one Prefect flow run: number, round, gate, verdict; then what is behind.

A tick holds the deployment's lock from before it takes its number until its verdict is on disk. Whoever dies in
between leaves a number without a verdict, which the next tick finishes first: its own parameters stand in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.reporting.results import estimate_text
from flows.rounds.head import Continuing, Next
from flows.rounds.history import AfterDone, Begun, Finished, History, Resumed, Stalled
from flows.rounds.ledger import now
from flows.run.events import Listener
from flows.run.prefect.api import close_orphaned_runs
from flows.run.run import Execution
from flows.store.provenance import commit
from flows.wiring.grammar import MOST_ROUNDS, TICKS
from flows.wiring.model import Graph, Parameter
from flows.wiring.types import Type
from tasks.contract import JSON, Bounds

ABOUT_ROUNDS = f"{TICKS['rounds']}: a gate answers before the next one begins"
ROUNDS = Parameter("rounds", 1, Type("int", bounds=Bounds(1, MOST_ROUNDS)), ABOUT_ROUNDS)
FORCE = Parameter("force", False, Type("bool"), TICKS["force"])


def with_ticks(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """The form of a deployment that continues: how many ticks, and the parameters that they read."""
    own = {"rounds": ROUNDS, "force": FORCE}
    return own | {n: p for n, p in parameters.items() if n not in own}


class TickObserver:
    """Observes how the ticks go. Does nothing."""

    def listeners(self, graph: Graph) -> Sequence[Listener]:
        """Listeners for the run of one tick."""
        return ()

    def say(self, text: str) -> None:
        """A word to the user."""

    def ended(self, execution: Execution) -> None:
        """The run of a tick, or of what stands behind the loop, is over."""


@dataclass
class TickOutcome:
    """What a call for ticks came to."""

    status: str = "done"
    """`done`, or how the run ended that stopped it."""
    made: list[int] = field(default_factory=list)
    """Numbers that got their verdict."""
    stalled: bool = False
    futures: list[Any] = field(default_factory=list)
    """Of all steps: returned by the flow, so that a failed step fails it."""


class Ticks:
    """Makes ticks of one deployment."""

    def __init__(self, loop: Continuing, watch: TickObserver) -> None:
        self._loop, self._watch = loop, watch
        self._closed = False
        self.left = 0
        """New rounds that are still to be begun."""
        self.ticked = TickOutcome()

    def make(self, overrides: Mapping[str, JSON], *, rounds: int = 1, force: bool = False) -> TickOutcome:
        """Finish what was left, a round or what stands behind one; then make `rounds` new ones and what stands behind.

        Stops at a run that is not done, and where the loop is stalled, unless `force`. Runs inside a flow run.
        Raises SpecError or DataError, before a number is taken, where the next tick cannot be made.
        """
        self._loop.check(overrides, self._loop.ledger.history())
        self.left = rounds
        self._after(overrides, left=True)
        while self.left and self.ticked.status == "done" and not self.ticked.stalled:
            with self._loop.ledger.lock(self._waiting()):
                self._tick(overrides, force)
        if self.ticked.status == "done":
            self._after(overrides)
        return self.ticked

    def _tick(self, overrides: Mapping[str, JSON], force: bool) -> None:
        """One number, with its verdict; or the word that the loop is stalled."""
        history = self._loop.ledger.history()
        tick = self._loop.next_tick(overrides, history)
        if not tick.resumed and not force and history.is_stalled(tick.parameters):
            self._stalled(tick, history)
            return
        if tick.resumed:
            self._watch.say(f"round {tick.number} of {self._loop.name} was left unfinished: it is finished first")

        def begun(run: str) -> None:
            event = Resumed(tick.number, run, now()) if tick.resumed else self._begun(tick, run)
            self._loop.ledger.append(event)
            self.left -= not tick.resumed

        execution = self._run(tick.graph, begun)
        if execution.run.status == "done":
            self._verdict(tick, execution)
        else:
            self._watch.say(
                f"round {tick.number} of {self._loop.name} is unfinished: what is done is kept, and the next tick "
                f"finishes it first, with the same parameters; to give it up: {self._loop.roll_back(history)}"
            )
        self._watch.ended(execution)

    def _begun(self, tick: Next, run: str) -> Begun:
        file = tick.graph.file
        return Begun(
            tick.number, run, tick.overrides, tick.parameters, file, commit(Path(file).absolute().parent), now()
        )

    def _run(self, graph: Graph, begun: Callable[[str], None]) -> Execution:
        loop = self._loop
        execution = Execution(graph, loop.store, listeners=self._watch.listeners(graph), deployment=loop.deployment)
        with execution:
            begun(execution.run.id)
            if not self._closed:
                close_orphaned_runs(execution.runs, execution.listener, but=execution.run.id)
                self._closed = True
            try:
                self.ticked.futures += execution.body()
            finally:
                execution.finish()
                self.ticked.status = execution.run.status
        return execution

    def _verdict(self, tick: Next, execution: Execution) -> None:
        records = execution.records
        gate, evidence = self._loop.gate(tick, records) or (None, None)
        accepted = evidence is None or evidence.accepts
        values, every = self._loop.left(tick, records)
        headline = self._loop.headline(tick, records)
        if accepted:
            self._loop.keep(tick, records)
        self._loop.ledger.append(Finished(tick.number, accepted, gate, headline, values, every, now(), evidence))
        self.ticked.made.append(tick.number)
        test = f" (win rate against the head {estimate_text(gate.value, gate.low, gate.high)}" if gate else ""
        test += f", {evidence.decision})" if evidence else ""
        word = "accepted" if accepted else "rejected: the head stays as it was"
        self._watch.say(f"round {tick.number} of {self._loop.name} {word}{test}")
        self._say_stalled(tick, self._loop.ledger.history())

    def _stalled(self, tick: Next, history: History) -> None:
        self.ticked.stalled = True
        if not history.stall_recorded:
            self._loop.ledger.append(Stalled(now()))
        if not self.ticked.made:
            self._say_stalled(tick, history)

    def _say_stalled(self, tick: Next, history: History) -> None:
        if history.is_stalled(tick.parameters):
            self._watch.say(
                f"{self._loop.name} is {history.stall(tick.parameters)}; nothing more is done until a parameter "
                "changes or you say --force (force=true)"
            )

    def _after(self, overrides: Mapping[str, JSON], *, left: bool = False) -> None:
        """What stands behind the loop, unless it has run for this head or a round is unfinished."""
        with self._loop.ledger.lock(self._waiting()):
            history = self._loop.ledger.history()
            graph = None if history.open else self._loop.after(overrides, history)
            if graph is None:
                return
            what = f"what stands behind round {history.head.round} of {self._loop.name}"
            if left:
                self._watch.say(f"{what} was left undone: it is done first")
            execution = self._run(graph, lambda _: None)
            if execution.run.status == "done":
                self._loop.ledger.append(AfterDone(history.head.round, execution.run.id, now()))
            else:
                self._watch.say(f"{what} is not done: the next tick does it first, before any new round")
            self._watch.ended(execution)

    def _waiting(self) -> Callable[[float, str], None]:
        holders: list[str] = []

        def waiting(seconds: float, holder: str) -> None:
            if seconds > 1 and not holders:
                holders.append(holder)
                self._watch.say(f"another tick of {self._loop.name} is at work ({holder}): waiting for it")

        return waiting
