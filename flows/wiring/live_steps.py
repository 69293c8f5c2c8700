"""Which steps of a pipeline run: reports and trained models, steps that nothing reads, and all that feeds these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from flows.python.closure import closure
from flows.wiring.grammar import PipelineText, written_steps
from flows.wiring.tree import Yaml, entries
from flows.wiring.where import Where


@dataclass(frozen=True)
class StepRead:
    """A place where a step names another one."""

    prefix: str | None
    """`prev`, `last`, `every` or nothing."""
    name: str
    where: Where


Reads = Mapping[str, list[StepRead]]
"""Step → what it reads."""


class LiveSteps:
    """The results of a pipeline: reports, trained models, and steps of any kind that nothing reads.

    Args:
        reads: of the pipeline's own steps.
        tick_reads: of the steps of each deployment.
        wanted: the steps whose kind makes them results.
    """

    def __init__(
        self, text: PipelineText, reads: Reads, tick_reads: Mapping[str, Reads], wanted: frozenset[str]
    ) -> None:
        self._text, self._reads, self._tick_reads, self._wanted = text, reads, tick_reads, wanted

    @cached_property
    def live(self) -> frozenset[str]:
        """Steps that run: all that this pipeline writes, and those inherited ones that have not lost their readers."""
        inherited = _named_in(self._text.lineage[1].whole) if len(self._text.lineage) > 1 else set()
        unread = [self._text.steps[n] for n, readers in self._readers.items() if not readers]
        leaves = [step.name for step in unread if step.own or step.name not in inherited]
        of_ticks = [n for ticks in self._tick_reads.values() for reads in ticks.values() for n in self._below(reads)]
        live = self._upstream([*self._wanted, *leaves, *of_ticks])
        own = [s.name for s in self._text.steps.values() if s.own and s.name not in live]  # read in a circle of rounds
        return live | self._upstream(own)

    @property
    def sinks(self) -> list[str]:
        """The live steps that are results."""
        return [n for n in self._text.steps if n in self.live and (n in self._wanted or not self._readers[n])]

    def notices(self) -> Iterator[str]:
        """Steps that nothing reads, and inherited ones that are dropped."""
        for name in self._text.steps:
            if name not in self.live:
                yield f"{self._text.name} inherits the step '{name}', which nothing here reads any more: dropped"
            elif not self._readers[name] and name not in self._wanted:
                yield f"{self._text.name}: nothing reads the step '{name}'; it is a result of the run"

    @cached_property
    def _readers(self) -> Mapping[str, frozenset[str]]:
        """Step → the other steps, also of deployments, that read it."""
        readers: dict[str, set[str]] = {name: set() for name in self._text.steps}
        for several in (self._reads, *self._tick_reads.values()):
            for reader, reads in several.items():
                for name in self._below(reads):
                    readers.get(name, set()).add(reader)
        return {name: frozenset(several - {name}) for name, several in readers.items()}

    def _upstream(self, names: Iterable[str]) -> frozenset[str]:
        """The steps and all that feeds them."""
        known = self._reads.keys()
        return frozenset(closure(known & set(names), lambda name: known & set(self._below(self._reads[name]))))

    def _below(self, reads: list[StepRead]) -> Iterator[str]:
        """The steps that are read; with prev.x, also its start."""
        for read in reads:
            yield read.name
            if read.prefix == "prev":
                yield str(self._text.start[read.name].value)


def _named_in(pipeline: Yaml) -> set[str]:
    """The steps that other steps of a pipeline, or of its deployments, name, with any prefix."""
    parts, steps = entries(pipeline), written_steps(pipeline)
    for deployment in entries(parts.get("deployments")).values():
        steps |= entries(entries(deployment).get("steps"))
    reads = [
        (name, part.value.rpartition(".")[2])
        for name, step in steps.items() for part in step.walk() if isinstance(part.value, str)
    ]  # fmt: skip
    starts = {str(node.value) for node in entries(entries(parts.get("repeat")).get("start")).values()}
    return starts | {read for name, read in reads if read != name}
