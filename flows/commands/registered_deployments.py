"""A file beside the artifacts with what `alignflow deploy` registered, so that `alignflow serve` executes nothing else.

Everybody who reaches a Prefect server can write deployments there, and a deployment can name any command. So `serve`
compares the server's deployments with this file, which only its owner can read or write and the server never sees.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.run.prefect.password import is_private, write_private

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse

ENTRY = Path(__file__).resolve().parents[1] / "entry.py"
"""The file of the flows of this checkout."""
FIELDS = ("entrypoint", "path", "pull_steps", "job_variables", "storage_document_id", "infrastructure_document_id")
"""Fields of a deployment that say what is executed, where, and with which environment."""

Registered = Mapping[str, Mapping[str, Any]]
"""Title of a deployment → its fields."""


def registered_file(artifacts: Path) -> Path:
    """Where the deployments are kept whose runs use these artifacts."""
    return artifacts.absolute() / ".prefect" / "deployments.json"


def remember_deployments(artifacts: Path, more: Registered) -> None:
    """Add deployments to the file, or replace them."""
    write_private(registered_file(artifacts), json.dumps({**_kept(artifacts), **more}, indent=1, sort_keys=True))


def forget_deployments(artifacts: Path, titles: Collection[str]) -> None:
    """Drop deployments that are no longer on the server."""
    kept = {title: fields for title, fields in _kept(artifacts).items() if title not in titles}
    write_private(registered_file(artifacts), json.dumps(kept, indent=1, sort_keys=True))


def difference(title: str, deployment: DeploymentResponse) -> str:
    """How a deployment differs from what `alignflow deploy` of this checkout registered; empty if it is the same."""
    artifacts = ((deployment.job_variables or {}).get("env") or {}).get("ALIGNFLOW_ARTIFACTS")
    if not isinstance(artifacts, str) or not (before := _kept(Path(artifacts)).get(title)):
        return "`alignflow deploy` did not register it"
    there = deployment.model_dump(mode="json")
    if differing := [name for name in FIELDS if (there.get(name) or None) != before.get(name)]:
        return f"its {' and '.join(differing)} changed since `alignflow deploy` registered it"
    if str(before["entrypoint"]).partition(":")[0] != str(ENTRY):
        return f"another checkout registered it ({before['entrypoint']})"
    return ""


def _kept(artifacts: Path) -> Registered:
    """The deployments in the file; none if somebody else could have written it."""
    file = registered_file(artifacts)
    try:
        return json.loads(file.read_text()) if file.exists() and is_private(file) else {}
    except (OSError, ValueError):
        return {}
