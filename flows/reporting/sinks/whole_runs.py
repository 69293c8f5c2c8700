"""Servers that take a run whole, once it is over: their history only grows, so a run is written when all is known.

Weights & Biases and trackio number the rows of a run, and a row that came cannot be changed. A run's parts, the steps
that trained, end before it, so each of them is there as soon as it has ended.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from flows.reporting.sinks.tracking import MetricRow
from tasks.contract import JSON

PROJECT = "alignflow"
"""The project of all runs."""


@dataclass
class WholeRun:
    """Everything that is known of one run."""

    name: str
    title: str
    started: int
    """In milliseconds since 1970, like `ended`."""
    about: str = ""
    parent: str = ""
    """Name of the run that it is a part of; empty for the run of a pipeline."""
    params: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    """Tags: what it used and wrote, by digest, keys, links."""
    rows: list[MetricRow] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    files: list[tuple[Path, str]] = field(default_factory=list)
    """Each with the folder in which the server has it."""
    status: str = "RUNNING"
    ended: int = 0

    @property
    def id(self) -> str:
        """Its name in letters that are allowed everywhere; the same for whoever publishes it."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.name)

    @property
    def config(self) -> dict[str, JSON]:
        """Parameters as numbers where they are some, and all else that is known of it."""
        times: dict[str, JSON] = {"started": iso(self.started), "ended": iso(self.ended), "status": self.status}
        return {**{n: _value(text) for n, text in self.params.items()}, **self.facts, **times}

    def by_step(self) -> list[tuple[int, dict[str, float]]]:
        """Its metrics by step, steps in ascending order; a metric that came twice at a step has its last value."""
        steps: dict[int, dict[str, float]] = {}
        for metric, value, step in self.rows:
            steps.setdefault(step, {})[metric] = value
        return sorted(steps.items())


class WholeRunServer(ABC):
    """A server that is given whole runs. A subclass says how one is written."""

    def __init__(self) -> None:
        self.refusal = self.damage = ""
        self._runs: dict[str, WholeRun] = {}
        self._links: dict[str, str] = {}

    @abstractmethod
    def write(self, run: WholeRun) -> str:
        """Write a run; writing it again changes nothing, or as little as the server allows. Returns where it is."""

    @abstractmethod
    def answers(self) -> bool: ...

    def link(self, name: str) -> str:
        return self._links.get(name, "")

    def start(
        self, name: str, title: str, tags: Mapping[str, str], at: int, parent: str = "", about: str = ""
    ) -> None:  # fmt: skip
        facts = {tag: value for tag, value in tags.items() if value}
        self._runs[name] = WholeRun(name, title, at, about, parent, facts=facts)

    def params(self, name: str, params: Mapping[str, str]) -> None:
        self._runs[name].params |= params

    def tags(self, name: str, tags: Mapping[str, str]) -> None:
        self._runs[name].facts |= tags

    def metrics(
        self, name: str, rows: Sequence[MetricRow], at: int, model: str = "", data: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        self._runs[name].rows += rows

    def inputs(self, name: str, datasets: Sequence[Mapping[str, str]]) -> None:
        self._runs[name].facts |= {f"data.{d['name']}": d["digest"] for d in datasets}

    def model(
        self, name: str, digest: str, title: str, kind: str, step: int, tags: Mapping[str, str],
        params: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._runs[name].facts[f"model.{title}"] = digest

    def register(self, name: str, family: str, digest: str) -> None:
        self._runs[name].facts["registered"] = f"{family}: {digest}"

    def promote(self, family: str, digest: str) -> None:
        """These servers have no alias that moves: the champion is MLflow's."""
        return

    def original(self, name: str, key: str) -> None:
        """The key is among the facts of both runs."""
        return

    def text(self, name: str, text: str, to: str) -> None:
        self._runs[name].texts[to] = text

    def files(self, name: str, files: Sequence[Path], to: str) -> None:
        self._runs[name].files += [(file, to) for file in files]

    def end(self, name: str, status: str, at: int) -> None:
        run = self._runs.pop(name)
        run.status, run.ended = status, at
        self._links[name] = self.write(run)


def iso(milliseconds: int) -> str:
    """A moment in milliseconds since 1970 as ISO time."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _value(text: str) -> JSON:
    """A parameter as a number where it is one, so that it can be an axis."""
    try:
        value: JSON = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) else text
