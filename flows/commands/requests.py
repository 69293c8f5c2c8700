"""What a command line asks for: which file, which pipeline, which values."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from tasks.contract import SpecError

MANUAL = "manual"
"""The deployment without a schedule that every pipeline has; a file may give one of that name itself."""


class Sort(StrEnum):
    """Which prompts of an evaluation are shown: by P(this policy's answer beats the base's), or not by how it went."""

    FIRST = "first"
    BEST = "best"
    WORST = "worst"
    RANDOM = "random"


def pipelines_file(given: Path | None) -> Path:
    """The pipelines file: what was given, or pipelines.yaml here or above. Raises SpecError."""
    if given is not None:
        if not given.is_file():
            raise SpecError(f"there is no file {given}")
        return given.resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pipelines.yaml").is_file():
            return folder / "pipelines.yaml"
    raise SpecError(f"there is no pipelines.yaml in {here} or above; say which with --file")


def deployment_or_pipeline(file: Path, name: str) -> str:
    """The pipeline where NAME/manual is the deployment that `deploy` gives to all of them; else NAME itself."""
    pipeline, _, deployment = name.partition("/")
    if deployment != MANUAL:
        return name
    from flows.wiring.text import PipelineFile

    return name if MANUAL in PipelineFile(file).pipeline(pipeline).deployments else pipeline


def parse_assignments(values: Sequence[str] | None) -> dict[str, str]:
    """KEY=VALUE texts as a mapping. Raises SpecError."""
    found: dict[str, str] = {}
    for text in values or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SpecError(f"command line: '{text}' is not of the form key=value")
        if key in found:
            raise SpecError(f"command line: '{key}' is given twice")
        found[key] = value
    return found
