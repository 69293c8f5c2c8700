"""What a glance at a step shows before anything runs: answers that nobody can compare, a file without the split.

A function takes what is known of a step (`Glimpse`) and raises SpecError or DataError where the step could only fail.
Neither torch nor transformers is imported.
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
"""Bytes of a file that is read whole."""


@dataclass(frozen=True, eq=False)
class Glimpse:
    """What is known of a step before it runs."""

    task: str
    params: Mapping[str, JSON] = field(default_factory=dict)
    choices: Mapping[str, Chosen] = field(default_factory=dict)
    inputs: Mapping[str, Sequence[Glimpse]] = field(default_factory=dict)
    k: int | None = None
    """Answers per prompt in its result, where that is known."""
    base: Path = Path()
    """What relative paths are relative to."""
    worlds: Mapping[str, WorldSpec] = field(default_factory=dict)
    """What the worlds among the sources say of themselves."""


def _need_two(answers: str) -> Callable[[Glimpse], None]:
    def glance(step: Glimpse) -> None:
        asked = step.inputs.get("win_probs", ())
        against_others = any(compare.inputs.get("others") for compare in asked)
        if any(table.k == 1 for table in step.inputs.get(answers, ())) and not against_others:
            raise SpecError(f"`{answers}` holds 1 answer per prompt, which nothing can be compared with: sample k ≥ 2")

    return glance


def _joined(step: Glimpse) -> None:
    """`concat` refuses rows that are the same draw."""
    for one, other in combinations(step.inputs.get("tables", ()), 2):
        if one is other:
            raise SpecError("two of its `tables` are the same step (or equal ones), whose rows would count twice")
        if one.task == other.task == "sample" and _draws(one) == _draws(other):
            raise SpecError(
                "two of its `tables` are the same draws (policy, prompts, seed, stream and sampling): give one another "
                "`stream`"
            )


def _draws(sampling: Glimpse) -> Any:
    inputs = {port: [id(s) for s in steps] for port, steps in sampling.inputs.items()}
    return inputs, {name: value for name, value in sampling.params.items() if name != "k"}


def _split_of_a_world(step: Glimpse) -> None:
    name, split = step.choices["source"].name, step.params.get("split")
    if name in step.worlds and split is not None and split not in step.worlds[name].splits:
        raise SpecError(f"the world '{name}' has no split '{split}'; choose one of {[*step.worlds[name].splits]}")


WIRING: Mapping[str, Callable[[Glimpse], None]] = {
    "pairs": _need_two("completions"), "win_rates": _need_two("completions"), "rankings": _need_two("scores"),
    "concat": _joined, "load_prompts": _split_of_a_world, "load_demonstrations": _split_of_a_world,
}  # fmt: skip
"""Task → what the wiring alone shows."""


def _data(what: str) -> Callable[[Glimpse], None]:
    def glance(step: Glimpse) -> None:
        source, split, place = step.choices.get("source"), str(step.params.get("split")), _place(step)
        if source is None or place is None:
            return
        if place.is_dir():
            _check_directory(place, split, what)
        elif place.stat().st_size <= _SMALL:
            _read_whole(place, source, split, what, step)

    return glance


def _place(step: Glimpse) -> Path | None:
    """The local file or folder that a source reads; None for what is made by rule or lies on the hub."""
    path = step.choices["source"].params.get("path") if "source" in step.choices else None
    place = step.base / Path(path).expanduser() if isinstance(path, str) else None
    return place if place is not None and place.exists() else None


def _check_directory(place: Path, split: str, what: str) -> None:
    """The splits of a folder, where its own files name them."""
    from tasks.formats.splits import choose
    from tasks.formats.tables import RawRows

    if not any(file.is_file() for file in place.rglob("*")):
        raise DataError(f"the directory {place} holds no file")
    saved = place / "dataset_dict.json"
    if saved.is_file():
        nothing: RawRows = RawRows(lambda: iter(()))
        choose(str(place), dict.fromkeys(json.loads(saved.read_text())["splits"], nothing), split, what)


def _read_whole(place: Path, source: Chosen, split: str, what: str, step: Glimpse) -> None:
    """Read a small file as the step will: format, split, rows that can be used."""
    from tasks.skipped import RowLog

    log = RowLog(_Silent(), float(str(step.params.get("max_skipped", 1.0))))
    opened = replace(source, params={**source.params, "path": str(place)})()
    given = [step.params.get("answers", "mixed")] if what == "demonstrations" else []
    log.checked(getattr(opened, what)(split, *given, log))


class _Silent:
    """A workspace for what is only looked at."""

    path = output = Path()

    def progress(self, done: float, total: float, unit: str = "") -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def count(self, **metrics: float) -> None: ...

    def notice(self, text: str) -> None: ...


def _policy(step: Glimpse) -> None:
    from tasks.formats.checkpoint import check_model

    place = _place(step)
    if place is not None:
        check_model(place)


READING: Mapping[str, Callable[[Glimpse], None]] = {
    "load_prompts": _data("prompts"), "load_demonstrations": _data("demonstrations"),
    "read_preferences": _data("preferences"), "read_policy": _policy,
}  # fmt: skip
"""Task → what its files show."""
