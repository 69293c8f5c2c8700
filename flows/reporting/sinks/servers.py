"""The tracking servers by their names, and how each is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from flows.reporting.sinks.mlflow_sink import MlflowServer, tracking_uri
from flows.reporting.sinks.tracking import TrackingServer
from flows.system.environment import without_password

MLFLOW = "mlflow"


class Target(NamedTuple):
    """A server that a run is published to."""

    name: str
    title: str
    """Its name in messages."""
    where: str
    """Its address, without a password."""
    open: Callable[[], TrackingServer]
    """Imports its package and connects to it, in the thread that writes to it."""


def targets(artifacts: Path, names: Sequence[str]) -> list[Target]:
    """The servers of these names, for runs of a store. Nothing is opened yet."""
    return [_TARGETS[name](artifacts) for name in names]


def _mlflow(artifacts: Path) -> Target:
    uri = tracking_uri(artifacts)
    return Target(MLFLOW, "MLflow", without_password(uri), lambda: MlflowServer(artifacts, uri))


def _wandb(artifacts: Path) -> Target:
    from flows.reporting.sinks.wandb_sink import WandbServer, wandb_address

    return Target("wandb", "W&B", wandb_address(artifacts), lambda: WandbServer(artifacts))


def _trackio(_: Path) -> Target:
    from flows.reporting.sinks.trackio_sink import TrackioServer, trackio_directory

    return Target("trackio", "trackio", str(trackio_directory()), TrackioServer)


_TARGETS: dict[str, Callable[[Path], Target]] = {MLFLOW: _mlflow, "wandb": _wandb, "trackio": _trackio}
