"""Splits: those that a source names, and shares by a hash of the prompt where it names none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.contract import SpecError
from tasks.formats.tables import RawRows

SHARES = {"rm": (0.0, 0.3), "policy": (0.3, 0.8), "gate": (0.8, 0.9), "heldout": (0.9, 1.0)}
"""A source without splits is divided by a hash of prompt_id, so that a prompt's rows stay together."""
_UNIONS = {"train": (0.0, 0.8), "sft": (0.0, 0.8)}
_CUT_FROM_TRAIN = ("rm", "policy", "gate", "sft")
_HELD_OUT = ("heldout", "test", "validation", "valid", "dev", "eval")
_SUFFIXES = {
    "prompts": ("gen", "prompts", "prefs", "sft"), "preferences": ("prefs", "preferences", "pairs", "dpo", "rm"),
    "demonstrations": ("sft", "demonstrations"),
}  # fmt: skip
"""What follows a split's name where a data set has several of one name, e.g. train_prefs and train_sft."""


@dataclass(frozen=True)
class Share:
    """Rows of one split, or of a share of one: those whose prompt's hash lies in [low, high)."""

    name: str
    """Of the split that the rows are in."""
    rows: RawRows
    low: float = 0.0
    high: float = 1.0

    def holds(self, prompt: str) -> bool:
        return self.low <= int(prompt[:13], 16) / 16**13 < self.high


def choose(source: str, splits: Mapping[str, RawRows], split: str, what: str) -> Share:
    """The rows of a split, `all` of them, or a share by hash. `what` is read: prompts, preferences, demonstrations.

    Raises SpecError for a split that is not there.
    """
    if split == "all":
        return Share(split, RawRows(lambda: _chained(splits)))
    if len(splits) == 1:
        ((name, rows),) = splits.items()
        named = split == name and split not in (SHARES | _UNIONS)
        return Share(name, rows) if named else _share(source, split, name, rows, 1.0)
    if split in splits:
        return Share(split, splits[split])
    for name in _HELD_OUT if split == "heldout" else (split,):
        if found := _suffixed(source, splits, name, what):
            return Share(found, splits[found])
    if split in _CUT_FROM_TRAIN and (train := _suffixed(source, splits, "train", what)):
        return _share(source, split, train, splits[train], SHARES["heldout"][0])
    raise SpecError(f"source '{source}' has no split '{split}'; it has {sorted(splits)}, and 'all' takes every row")


def _suffixed(source: str, splits: Mapping[str, RawRows], base: str, what: str) -> str | None:
    """The split called `base`, or `base` with a suffix: train_prefs. Raises SpecError where several could be meant."""
    if base in splits:
        return base
    found = {m[1]: name for name in splits if (m := re.fullmatch(rf"{base}[-_.](\w+)", name))}
    suffix = next((s for s in _SUFFIXES[what] if s in found), None)
    if suffix or len(found) < 2:
        return found[suffix] if suffix else next(iter(found.values()), None)
    raise SpecError(f"source '{source}' has several splits '{base}': {sorted(found.values())}; name the one to take")


def _share(source: str, split: str, name: str, rows: RawRows, whole: float) -> Share:
    """A share of `rows`; `whole`: where the shares end, because what lies above has a split of its own."""
    shares = SHARES | _UNIONS
    if split not in shares:
        raise SpecError(
            f"source '{source}' is divided by hash; it has no split '{split}' but {sorted([*shares, 'all'])}"
        )
    low, high = shares[split]
    return Share(name, rows, low / whole, min(1.0, high / whole))


def _chained(splits: Mapping[str, RawRows]) -> Iterator[tuple[str, dict[str, Any]]]:
    for rows in splits.values():
        yield from rows.read()
