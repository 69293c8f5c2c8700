"""Splits: those that a source defines, or shares by a hash of the prompt."""

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
"""Suffixes of a split's name by what is read, for data sets with e.g. train_prefs and train_sft."""


@dataclass(frozen=True)
class Share:
    """Rows of a split whose prompt hash is in [low, high)."""

    name: str
    """Name of the split."""
    rows: RawRows
    low: float = 0.0
    high: float = 1.0

    def contains(self, prompt: str) -> bool:
        return self.low <= int(prompt[:13], 16) / 16**13 < self.high


def select_split(source: str, splits: Mapping[str, RawRows], split: str, what: str) -> Share:
    """The rows of a split, of `all` splits, or a share by hash. `what`: prompts, preferences or demonstrations.

    Raises SpecError for an unknown split.
    """
    if split == "all":
        return Share(split, RawRows(lambda: _all_rows(splits)))
    if len(splits) == 1:
        ((name, rows),) = splits.items()
        named = split == name and split not in (SHARES | _UNIONS)
        return Share(name, rows) if named else _share(source, split, name, rows, 1.0)
    if split in splits:
        return Share(split, splits[split])
    for name in _HELD_OUT if split == "heldout" else (split,):
        if match := _split_with_suffix(source, splits, name, what):
            return Share(match, splits[match])
    if split in _CUT_FROM_TRAIN and (train := _split_with_suffix(source, splits, "train", what)):
        return _share(source, split, train, splits[train], SHARES["heldout"][0])
    raise SpecError(f"source '{source}' has no split '{split}'; choose one of {sorted([*splits, 'all'])}")


def _split_with_suffix(source: str, splits: Mapping[str, RawRows], base: str, what: str) -> str | None:
    """The split `base`, or `base` with a suffix (train_prefs). Raises SpecError if it is ambiguous."""
    if base in splits:
        return base
    by_suffix = {m[1]: name for name in splits if (m := re.fullmatch(rf"{base}[-_.](\w+)", name))}
    suffix = next((s for s in _SUFFIXES[what] if s in by_suffix), None)
    if suffix or len(by_suffix) < 2:
        return by_suffix[suffix] if suffix else next(iter(by_suffix.values()), None)
    raise SpecError(f"source '{source}' has several splits '{base}': choose one of {sorted(by_suffix.values())}")


def _share(source: str, split: str, name: str, rows: RawRows, whole: float) -> Share:
    """A share of `rows`; `whole`: upper end of the shares in these rows, where the rest is a split of its own."""
    shares = SHARES | _UNIONS
    if split not in shares:
        raise SpecError(
            f"source '{source}' has no split '{split}'; it is divided by hash into {sorted([*shares, 'all'])}"
        )
    low, high = shares[split]
    return Share(name, rows, low / whole, min(1.0, high / whole))


def _all_rows(splits: Mapping[str, RawRows]) -> Iterator[tuple[str, dict[str, Any]]]:
    for rows in splits.values():
        yield from rows.read()
