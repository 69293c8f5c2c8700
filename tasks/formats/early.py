"""Checks of files before any step reads them: a split that is missing, rows that cannot be used.

Light, because `plan` runs them: neither torch nor transformers is imported.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.contract import JSON, Chosen, DataError, SpecError
from tasks.declarations import StepView

if TYPE_CHECKING:
    pass

_SMALL = 2_000_000
"""Bytes; smaller files are read whole."""


def check_rows(step: StepView) -> None:
    """Raise SpecError or DataError where a step that loads prompts, demonstrations or preferences can only fail."""
    what = step.kind.lower()
    source, split, place = step.choices.get("source"), str(step.params.get("split")), _local_path(step)
    if source is None or place is None:
        return
    if place.is_dir():
        _check_directory(place, split, what)
    elif place.stat().st_size <= _SMALL:
        _read_whole(place, source, split, what, step)


def check_split(step: StepView) -> None:
    """Raise SpecError for a split that a world does not have."""
    world, split = step.declares("source", "world"), step.params.get("split")
    if world and split is not None and split not in world.splits:
        name = step.choices["source"].name
        raise SpecError(f"the world '{name}' has no split '{split}'; choose one of {[*world.splits]}")


def check_checkpoint(step: StepView) -> None:
    """Raise DataError for an unusable local checkpoint."""
    from tasks.formats.checkpoint import check_model

    if place := _local_path(step):
        check_model(place)


def check_peft_directory(step: StepView) -> None:
    """Raise DataError for a local adapter that cannot be read."""
    from tasks.formats.peft_files import read_settings

    if place := _local_path(step):
        read_settings(place)


def config_of_source(step: StepView) -> Mapping[str, JSON] | None:
    """config.json of the checkpoint that a source is; None where it is not on this machine."""
    return _config(step, "source")


def config_of_oracle(step: StepView) -> Mapping[str, JSON] | None:
    """The same of an oracle that is a model."""
    return _config(step, "oracle")


def _config(step: StepView, choice: str) -> Mapping[str, JSON] | None:
    from tasks.formats.hub import cached_folder

    params = step.choices[choice].params if choice in step.choices else {}
    path, revision = params.get("path"), params.get("revision")
    place = _local_path(step, choice)
    if place is None and isinstance(path, str):
        place = cached_folder(path, revision if isinstance(revision, str) else None)
    try:
        return dict(json.loads((place / "config.json").read_text())) if place else None
    except (OSError, ValueError):
        return None


def _local_path(step: StepView, choice: str = "source") -> Path | None:
    """The local file or folder that a choice reads; None for a world or a hub repository."""
    path = step.choices[choice].params.get("path") if choice in step.choices else None
    place = step.base / Path(path).expanduser() if isinstance(path, str) else None
    return place if place is not None and place.exists() else None


def _check_directory(place: Path, split: str, what: str) -> None:
    """Check the split of a folder, if its files list the splits."""
    from tasks.formats.splits import select_split
    from tasks.formats.tables import RawRows

    if not any(file.is_file() for file in place.rglob("*")):
        raise DataError(f"the directory {place} contains no files")
    saved = place / "dataset_dict.json"
    if saved.is_file():
        no_rows: RawRows = RawRows(lambda: iter(()))
        select_split(str(place), dict.fromkeys(json.loads(saved.read_text())["splits"], no_rows), split, what)


def _read_whole(place: Path, source: Chosen, split: str, what: str, step: StepView) -> None:
    """Read a small file as the step will: format, split, usable rows."""
    from tasks.skipped import RowLog

    log = RowLog(_Silent(), float(str(step.params.get("max_skipped", 1.0))))
    opened = replace(source, params={**source.params, "path": str(place)})()
    given = {"demonstrations": [step.params.get("answers", "mixed")], "scores": [step.params.get("attributes")]}
    log.check(getattr(opened, what)(split, *given.get(what, []), log))


class _Silent:
    """A workspace that discards everything."""

    path = output = answers = Path()

    def progress(self, done: float, total: float, unit: str = "") -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def count(self, **metrics: float) -> None: ...

    def notice(self, text: str) -> None: ...
