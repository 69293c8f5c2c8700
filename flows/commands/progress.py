"""The progress of a run: the current steps, how many are done, the time left. Plain lines where output is a pipe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from flows.commands.printing import say, short_path
from flows.run.events import Listener
from flows.store.records import Record
from flows.store.runs import Run
from flows.system.durations import seconds
from flows.wiring.model import Graph, Node

QUIET_SECONDS = 1.0
"""Steps that take less are not shown one by one on a terminal."""


def progress(console: Console, expected: Mapping[str, float | None]) -> Listener:
    """A listener that shows the run on `console`. `expected`: node id → seconds by the plan, None if unknown."""
    return Live(console, expected) if console.is_terminal else Lines(console)


class Lines(Listener):
    """Prints a line when a step begins to run, one for each of its notices, and one when it has finished."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = self._total = 0
        self._notices: set[tuple[str, str]] = set()

    def run_started(self, run: Run, graph: Graph, logs: Path) -> None:
        self._total = len(graph.nodes)
        self._say(f"run {run.id}: {self._total} steps; logs in {short_path(logs)}")

    def step_started(self, node: Node, reason: str, log: Path) -> None:
        self._say(f"  {node.title}: {node.task} ({reason})")

    def step_waiting(self, node: Node, what: str) -> None:
        self._say(f"  {node.title}: waiting, {what}")

    def step_notice(self, node: Node, text: str) -> None:
        if (node.id, text) not in self._notices:
            self._notices.add((node.id, text))
            self._say(f"  {node.title}: {text}")

    def step_finished(self, node: Node, record: Record, *, hit: bool, reason: str) -> None:
        self._done += 1
        if not hit:
            self._say(f"  {node.title}: done in {seconds(record.seconds)} [{self._done}/{self._total}]")

    def step_failed(self, node: Node, error: BaseException) -> None:
        self._say(f"  {node.title}: failed: {error}")

    def step_awaits_people(self, node: Node, what: str) -> None:
        self._say(f"  {node.title}: waits for people: {what}")

    def _say(self, text: str) -> None:
        say(self._console, text)


class Live(Lines):
    """Progress bars on a terminal: finished steps above, the running ones and the whole run below."""

    def __init__(self, console: Console, expected: Mapping[str, float | None]) -> None:
        super().__init__(console)
        self._left = {id: s for id, s in expected.items() if s is not None}
        self._begun: dict[str, float] = {}
        self._bars: dict[str, TaskID] = {}
        self._progress: Progress
        self._whole: TaskID

    def run_started(self, run: Run, graph: Graph, logs: Path) -> None:
        super().run_started(run, graph, logs)
        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[how_far]}"),
            TimeElapsedColumn(), TextColumn("[dim]{task.fields[left]}"),
        )  # fmt: skip
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._whole = self._progress.add_task(f"[bold]{graph.pipeline}", total=self._total, how_far="", left="")
        self._progress.start()

    def step_started(self, node: Node, reason: str, log: Path) -> None:
        self._begun[node.id] = time.monotonic()
        title = f"  {node.title}"
        self._bars[node.id] = self._progress.add_task(
            title, total=None, how_far=node.task, left=f"log {short_path(log)}"
        )
        self._update()

    def step_waiting(self, node: Node, what: str) -> None:
        if node.id in self._bars:
            self._progress.update(self._bars[node.id], how_far=f"waiting: {what}")

    def step_progress(self, node: Node, done: float, total: float, unit: str) -> None:
        if node.id not in self._bars:
            return
        self._progress.update(
            self._bars[node.id], completed=done, total=total, how_far=f"{done:,.0f}/{total:,.0f} {unit}"
        )
        spent = time.monotonic() - self._begun[node.id]
        if done > 0 and spent > QUIET_SECONDS:
            self._left[node.id] = spent * total / done
        self._update()

    def step_finished(self, node: Node, record: Record, *, hit: bool, reason: str) -> None:
        self._done += 1
        self._end(node)
        if not hit and record.seconds >= QUIET_SECONDS:
            text = f"[green]✓[/] {node.title} [dim]{node.task}, {seconds(record.seconds)}"
            self._console.print(text, highlight=False)

    def step_failed(self, node: Node, error: BaseException) -> None:
        self._end(node)
        self._console.print(f"[red]✗[/] {node.title}", highlight=False)

    def step_awaits_people(self, node: Node, what: str) -> None:
        self._end(node)
        self._console.print(f"[yellow]…[/] {node.title} [dim]waits for people", highlight=False)

    def run_finished(self, run: Run) -> None:
        if self._total:
            self._progress.stop()

    def _end(self, node: Node) -> None:
        bar = self._bars.pop(node.id, None)
        if bar is not None:
            self._progress.remove_task(bar)
        self._left.pop(node.id, None)
        self._begun.pop(node.id, None)
        self._update()

    def _update(self) -> None:
        now = time.monotonic()
        left = sum(max(0.0, s - (now - self._begun.get(id, now))) for id, s in self._left.items())
        text = f"about {seconds(left)} left" if left >= 1 else ""
        self._progress.update(self._whole, completed=self._done, how_far=f"{self._done}/{self._total} steps", left=text)
