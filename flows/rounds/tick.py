"""Ticks of a continuing deployment, inside one Prefect flow run: number, round, gate, verdict; then the steps `after`.

A tick holds the deployment's lock from before it takes its number until its verdict is on disk. A process that dies in
between leaves a number without a verdict, which the next tick finishes first, with the parameters in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.reporting.results import estimate_text
from flows.rounds.head import Continuing, Next
from flows.rounds.history import AfterDone, Begun, Finished, History, Resumed, Stalled
from flows.run.events import Listener
from flows.run.run import Execution
from flows.store.provenance import commit
from flows.store.runs import Runs
from flows.wiring.grammar import MOST_ROUNDS, TICKS
from flows.wiring.model import Graph, Parameter
from flows.wiring.types import Type
from tasks.contract import JSON, Bounds, SpecError

ABOUT_ROUNDS = f"{TICKS['rounds']}: a gate answers before the next one begins"
ROUNDS = Parameter("rounds", 1, Type("int", bounds=Bounds(1, MOST_ROUNDS)), ABOUT_ROUNDS)
FORCE = Parameter("force", False, Type("bool"), TICKS["force"])


def with_ticks(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """The form of a deployment that continues: how many ticks, and the parameters that they read."""
    own = {"rounds": ROUNDS, "force": FORCE}
    return own | {n: p for n, p in parameters.items() if n not in own}


def rounds_begun_in(loop: Continuing, flow_run: str) -> int:
    """How many of the last rounds a flow run has begun: some, where it was suspended and is called again."""
    begun = 0
    for round in reversed(loop.ledger.history().rounds):
        try:
            run = Runs(loop.store).load(round.begun.run)
        except SpecError:  # its file is gone or damaged
            return begun
        if run.links.get("prefect") != flow_run:
            return begun
        begun += 1
    return begun


class TickObserver:
    """Receives the events of ticks, and ignores them. A subclass overrides those that it needs."""

    def listeners(self, graph: Graph) -> Sequence[Listener]:
        """Listeners for the run of one tick."""
        return ()

    def say(self, text: str) -> None:
        """A message for the user."""

    def ended(self, execution: Execution) -> None:
        """The run of a tick, or of the steps `after` the loop, is over."""


@dataclass
class TickOutcome:
    """The outcome of a call for ticks."""

    status: str = "done"
    """`done`, or the status of the run that stopped the ticks."""
    made: list[int] = field(default_factory=list)
    """Numbers that have their verdict."""
    stalled: bool = False
    futures: list[Any] = field(default_factory=list)
    """Of all steps: returned by the flow, so that a failed step fails it."""


class Ticks:
    """Makes ticks of one deployment."""

    def __init__(self, loop: Continuing, observer: TickObserver) -> None:
        self._loop, self._observer = loop, observer
        self.left = 0
        """New rounds that have not begun yet."""
        self.ticked = TickOutcome()

    def make(self, overrides: Mapping[str, JSON], *, rounds: int = 1, force: bool = False) -> TickOutcome:
        """Finish an earlier round or its steps `after`; then make `rounds` new rounds and run the steps `after` them.

        Stops at a run that is not done, and where the loop is stalled, unless `force`. Runs inside a flow run. With
        `rounds` 0 it only finishes what is left.
        Raises SpecError or DataError, before a number is taken, where the next tick cannot be made.
        """
        self._loop.check(overrides, self._loop.ledger.history())
        self.left = rounds
        self._after(overrides, left=True)
        while (
            (self.left or self._loop.ledger.history().open) and self.ticked.status == "done" and not self.ticked.stalled
        ):
            with self._loop.ledger.lock(self._waiting()):
                self._tick(overrides, force)
        if self.ticked.status == "done":
            self._after(overrides)
        return self.ticked

    def _has_more(self) -> bool:
        return self.left > 0 or self._loop.ledger.history().open is not None

    def _tick(self, overrides: Mapping[str, JSON], force: bool) -> None:
        """Make one round with its verdict, unless the loop is stalled."""
        history = self._loop.ledger.history()
        if not self.left and not history.open:
            return  # another process has finished it meanwhile
        tick = self._loop.next_tick(overrides, history)
        if not tick.resumed and not force and history.is_stalled(tick.parameters):
            self._stalled(tick, history)
            return
        if tick.resumed:
            self._observer.say(f"round {tick.number} of {self._loop.name} was left unfinished: it is finished first")

        def begun(run: str) -> None:
            file = Path(tick.graph.file)
            self._loop.ledger.append(
                Resumed(tick.number, run)
                if tick.resumed
                else Begun(tick.number, run, tick.overrides, tick.parameters, str(file), commit(file.absolute().parent))
            )
            self.left -= not tick.resumed

        execution = self._run(tick.graph, begun)
        if execution.run.status == "done":
            self._verdict(tick, execution)
        else:
            self._observer.say(
                f"round {tick.number} of {self._loop.name} is unfinished: what is done is kept, and the next tick "
                f"finishes it first, with the same parameters; to give it up: {self._loop.roll_back(history)}"
            )
        self._observer.ended(execution)

    def _run(self, graph: Graph, begun: Callable[[str], None]) -> Execution:
        loop = self._loop
        execution = Execution(graph, loop.store, listeners=self._observer.listeners(graph), deployment=loop.deployment)
        with execution:
            begun(execution.run.id)
            try:
                self.ticked.futures += execution.body()
            finally:
                self.ticked.status = execution.run.status
        return execution

    def _verdict(self, tick: Next, execution: Execution) -> None:
        records = execution.records
        gate, evidence, candidate = self._loop.gate(tick, records) or (None, None, "")
        accepted = evidence is None or evidence.accepts
        values, every = self._loop.left(tick, records)
        headline = self._loop.headline(tick, records)
        if accepted:
            self._loop.keep(tick, records)
        self._loop.ledger.append(Finished(tick.number, accepted, gate, evidence, headline, values, every, candidate))
        self.ticked.made.append(tick.number)
        test = f" (win rate against the head {estimate_text(gate.value, gate.low, gate.high)}" if gate else ""
        test += f", {evidence.decision})" if evidence else ""
        verdict = "accepted" if accepted else "rejected: the head stays as it was"
        self._observer.say(f"round {tick.number} of {self._loop.name} {verdict}{test}")
        self._say_stalled(tick, self._loop.ledger.history())

    def _stalled(self, tick: Next, history: History) -> None:
        self.ticked.stalled = True
        if not history.stall_recorded:
            self._loop.ledger.append(Stalled())
        if not self.ticked.made:
            self._say_stalled(tick, history)

    def _say_stalled(self, tick: Next, history: History) -> None:
        if history.is_stalled(tick.parameters):
            self._observer.say(
                f"{self._loop.name} is {history.stall(tick.parameters)}; nothing more is done until a parameter "
                "changes or you add --force (force=true)"
            )

    def _after(self, overrides: Mapping[str, JSON], *, left: bool = False) -> None:
        """Run the steps `after` the loop, unless they have run for this head or a round is unfinished."""
        with self._loop.ledger.lock(self._waiting()):
            history = self._loop.ledger.history()
            graph = None if history.open else self._loop.after(overrides, history)
            if graph is None:
                return
            what = f"the steps `after` round {history.head.round} of {self._loop.name}"
            if left:
                self._observer.say(f"{what} were left undone: they are run first")
            execution = self._run(graph, lambda _: None)
            if execution.run.status == "done":
                self._loop.ledger.append(AfterDone(history.head.round, execution.run.id))
            else:
                self._observer.say(f"{what} are not done: the next tick runs them first, before any new round")
            self._observer.ended(execution)

    def _waiting(self) -> Callable[[float, str], None]:
        holders: list[str] = []

        def waiting(seconds: float, holder: str) -> None:
            if seconds > 1 and not holders:
                holders.append(holder)
                self._observer.say(f"another tick of {self._loop.name} is at work ({holder}): waiting for it")

        return waiting
