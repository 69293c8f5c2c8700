"""Checks of a step before anything runs, such as single answers in a comparison, or a file without the split.

A check takes a `StepPreview` and raises SpecError or DataError if the step would fail. It imports neither torch nor
transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contract import JSON, Chosen, DataError, SpecError, WorldSpec

if TYPE_CHECKING:
    from tasks.formats.tables import RawRows

_SMALL = 2_000_000
"""Bytes; smaller files are read whole."""


@dataclass(frozen=True, eq=False)
class StepPreview:
    """The part of a step that is known before it runs."""

    task: str
    params: Mapping[str, JSON] = field(default_factory=dict)
    choices: Mapping[str, Chosen] = field(default_factory=dict)
    inputs: Mapping[str, Sequence[StepPreview]] = field(default_factory=dict)
    k: int | None = None
    """Answers per prompt in its result, if known."""
    base: Path = Path()
    """Base of relative paths."""
    worlds: Mapping[str, WorldSpec] = field(default_factory=dict)
    """Specifications of the worlds among the sources, by name."""


def _at_least_two(answers: str) -> Callable[[StepPreview], None]:
    def check(step: StepPreview) -> None:
        comparisons = step.inputs.get("win_probs", ())
        against_others = any(compare.inputs.get("others") for compare in comparisons)
        if any(table.k == 1 for table in step.inputs.get(answers, ())) and not against_others:
            raise SpecError(f"`{answers}` has 1 answer per prompt, but a comparison needs 2: sample with k ≥ 2")

    return check


def _distinct_tables(step: StepPreview) -> None:
    """`concat` rejects rows that are the same draw."""
    for one, other in combinations(step.inputs.get("tables", ()), 2):
        if one is other:
            raise SpecError("two of its `tables` are the same step (or equal steps), so their rows would count twice")
        if one.task == other.task == "sample" and _draws(one) == _draws(other):
            raise SpecError(
                "two of its `tables` are the same draws (policy, prompts, seed, stream and sampling): set another "
                "`stream` for one"
            )


def _draws(sampling: StepPreview) -> Any:
    inputs = {port: [id(s) for s in steps] for port, steps in sampling.inputs.items()}
    return inputs, {name: value for name, value in sampling.params.items() if name != "k"}


def _split_of_a_world(step: StepPreview) -> None:
    name, split = step.choices["source"].name, step.params.get("split")
    if name in step.worlds and split is not None and split not in step.worlds[name].splits:
        raise SpecError(f"the world '{name}' has no split '{split}'; choose one of {[*step.worlds[name].splits]}")


WIRING: Mapping[str, Callable[[StepPreview], None]] = {
    "pairs": _at_least_two("completions"), "win_rates": _at_least_two("completions"),
    "rankings": _at_least_two("scores"), "concat": _distinct_tables, "load_prompts": _split_of_a_world,
    "load_demonstrations": _split_of_a_world,
}  # fmt: skip
"""Task → check of the wiring alone."""


def _data(what: str) -> Callable[[StepPreview], None]:
    def check(step: StepPreview) -> None:
        source, split, place = step.choices.get("source"), str(step.params.get("split")), _local_path(step)
        if source is None or place is None:
            return
        if place.is_dir():
            _check_directory(place, split, what)
        elif place.stat().st_size <= _SMALL:
            _read_whole(place, source, split, what, step)

    return check


def _local_path(step: StepPreview) -> Path | None:
    """The local file or folder that a source reads; None for a world or a hub repository."""
    path = step.choices["source"].params.get("path") if "source" in step.choices else None
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


def _read_whole(place: Path, source: Chosen, split: str, what: str, step: StepPreview) -> None:
    """Read a small file as the step will: format, split, usable rows."""
    from tasks.skipped import RowLog

    log = RowLog(_Silent(), float(str(step.params.get("max_skipped", 1.0))))
    opened = replace(source, params={**source.params, "path": str(place)})()
    given = [step.params.get("answers", "mixed")] if what == "demonstrations" else []
    log.check(getattr(opened, what)(split, *given, log))


class _Silent:
    """A workspace that discards everything."""

    path = output = Path()

    def progress(self, done: float, total: float, unit: str = "") -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def count(self, **metrics: float) -> None: ...

    def notice(self, text: str) -> None: ...


def _policy(step: StepPreview) -> None:
    from tasks.formats.checkpoint import check_model

    place = _local_path(step)
    if place is not None:
        check_model(place)


READING: Mapping[str, Callable[[StepPreview], None]] = {
    "load_prompts": _data("prompts"), "load_demonstrations": _data("demonstrations"),
    "read_preferences": _data("preferences"), "read_policy": _policy,
}  # fmt: skip
"""Task → check of its files."""
