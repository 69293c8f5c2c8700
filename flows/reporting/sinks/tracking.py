"""What a tracking server is for us: MLflow, Weights & Biases and trackio are written to by the same few calls.

`tracking: [mlflow, wandb]` in a profile, or ALIGNFLOW_TRACKING=mlflow,wandb, names the servers of a run; the default is
MLflow alone. W&B and trackio are extras of the package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from flows.system.environment import without_password
from flows.wiring.grammar import TRACKING
from tasks.contract import SpecError

VARIABLE = "ALIGNFLOW_TRACKING"
"""Names of servers, with commas; wins over the profile."""
MetricRow = tuple[str, float, int]
"""Metric, value, step."""


class TrackingServer(Protocol):
    """One server. Runs have our own names, so that writing anything again changes nothing.

    Its methods raise the server's own errors if it does not answer, and DataError where it cannot be used at all. What
    it refuses it leaves out and notes in `refusal`.
    """

    refusal: str
    """The last refusal of the server, if there was any."""
    damage: str
    """A message about files of the server that were damaged."""

    def answers(self) -> bool:
        """Whether the server answers at all."""
        ...

    def link(self, name: str) -> str:
        """Where the run of a name is on the server; empty for one that was not started here."""
        ...

    def start(
        self, name: str, title: str, tags: Mapping[str, str], at: int, parent: str = "", about: str = ""
    ) -> None:  # fmt: skip
        """Begin a run, or a part of the run `parent`. `at`: in milliseconds; `about`: its description."""
        ...

    def params(self, name: str, params: Mapping[str, str]) -> None: ...

    def tags(self, name: str, tags: Mapping[str, str]) -> None: ...

    def metrics(
        self, name: str, rows: Sequence[MetricRow], at: int, model: str = "", data: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        """`model`: digest of the model that they were measured on, `data`: the table that it was measured on."""
        ...

    def inputs(self, name: str, datasets: Sequence[Mapping[str, str]]) -> None:
        """Tables that went in: each with `name`, `digest`, `path` and `context`."""
        ...

    def model(
        self, name: str, digest: str, title: str, kind: str, step: int, tags: Mapping[str, str],
        params: Mapping[str, str],
    ) -> None:  # fmt: skip
        """A model that a run made or measured, one for each content; no file is copied."""
        ...

    def register(self, name: str, family: str, digest: str) -> None:
        """Make the model of a digest a version of the registered model `family`; it came out of the run `name`."""
        ...

    def promote(self, family: str, digest: str) -> None:
        """Make the model of a digest the champion of a registered model; an empty digest: it has none."""
        ...

    def original(self, name: str, key: str) -> None:
        """Link a run of a cached step to the run in which the step was computed."""
        ...

    def text(self, name: str, text: str, to: str) -> None:
        """`to`: path of the file in which the server has the text."""
        ...

    def files(self, name: str, files: Sequence[Path], to: str) -> None:
        """`to`: the folder in which the server has the files."""
        ...

    def end(self, name: str, status: str, at: int) -> None:
        """`status`: FINISHED, FAILED, KILLED or SCHEDULED."""
        ...


def chosen_servers(profile: Sequence[str]) -> tuple[str, ...]:
    """Names of the servers of a run: those in ALIGNFLOW_TRACKING, else those of its profile. Raises SpecError."""
    names = tuple(dict.fromkeys(n for part in os.environ.get(VARIABLE, "").split(",") if (n := part.strip())))
    for name in names:
        if name not in TRACKING:
            raise SpecError(f"{VARIABLE} names '{name}'; choose among {', '.join(TRACKING)}")
    return names or tuple(profile)


def family_name(pipeline: str, deployment: str = "") -> str:
    """The registered model of a pipeline or of a deployment: MLflow refuses `/` in names."""
    return f"{pipeline}__{deployment}" if deployment else pipeline


def milliseconds(time: str) -> int:
    """An ISO time in milliseconds since 1970."""
    return int(datetime.fromisoformat(time).timestamp() * 1000)


def short_error(e: Exception) -> str:
    """The first line of an error, without passwords."""
    return f"{type(e).__name__}: {without_password(str(e)).splitlines()[0][:200] if str(e) else ''}"
