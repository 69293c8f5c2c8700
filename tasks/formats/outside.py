"""Data and models from outside: a file, a directory or a hub repository as a source."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa

from tasks.contract import DataError, SpecError, Workspace
from tasks.formats.checkpoint import check_model, download_model
from tasks.formats.rows import Example, Format, Unusable, describe, recognise
from tasks.formats.tables import Rows, open_directory, open_file, open_hub
from tasks.ids import digest, prompt_id
from tasks.kinds import AnyTable, Demonstrations, Preferences, Prompts
from tasks.source import Answers, Source

SHARES = {"rm": (0.0, 0.3), "policy": (0.3, 0.8), "gate": (0.8, 0.9), "heldout": (0.9, 1.0)}
"""A source without splits is divided by a hash of prompt_id, so that a prompt's rows stay together."""
_UNIONS = {"train": (0.0, 0.8), "sft": (0.0, 0.8), "all": (0.0, 1.0)}
_HELD_OUT = ("heldout", "test", "validation", "valid", "dev", "eval")
_NAMED_IN_A_NOTICE = 5


class Read(NamedTuple):
    """A row that was read: where it lies, its number in the table, the format's example and its prompt's id."""

    where: str
    number: int
    example: Example
    prompt_id: str
    row: Mapping[str, Any]


class Skipped(NamedTuple):
    """A row that cannot be used: where it lies, its number in the table, and why."""

    where: str
    number: int
    reason: str


@dataclass(frozen=True)
class Share:
    """Rows of one split, or of a share of one: those whose prompt's hash lies in [low, high)."""

    rows: Rows
    low: float = 0.0
    high: float = 1.0

    def holds(self, prompt: str) -> bool:
        return self.low <= int(prompt[:13], 16) / 16**13 < self.high


class Outside(Source):
    """A file, a directory or a hub repository. Splits: see `tasks.sources.path.path`."""

    def __init__(self, path: str, subset: str | None, revision: str | None) -> None:
        super().__init__(path)
        self._subset, self._revision = subset, revision
        self._commits: Mapping[str, str] = {}

    def pinned(self, identity: Mapping[str, str]) -> Self:
        """Held to the commit of which the key was made, whatever the hub's branch says by now."""
        pinned = type(self)(self.name, self._subset, self._revision)
        pinned._commits = dict(identity)
        return pinned

    def prompts(self, split: str) -> Prompts:
        """Distinct prompts in the order in which they are first met; unusable rows are left out."""
        skipped: list[Skipped] = []
        first: dict[str, dict[str, Any]] = {}
        for r in self._read(split, "prompts", skipped):
            if r.prompt_id not in first:
                first[r.prompt_id] = _prompt(r)
        return Prompts.of(self._table(Prompts, split, list(first.values()), skipped))

    def demonstrations(self, split: str, answers: Answers, work: Workspace) -> Demonstrations:
        """Answers of prompt-completion rows, or the chosen ones of pairs."""
        if answers == "golden":
            raise SpecError(f"source '{self.name}' does not tell golden answers apart; leave `answers` at mixed")
        skipped: list[Skipped] = []
        rows = [_demonstration(r, skipped) for r in self._read(split, "demonstrations", skipped)]
        return self._told(Demonstrations, split, [row for row in rows if row is not None], skipped, work)

    def preferences(self, split: str, work: Workspace) -> Preferences:
        """The pairs; rows that are none (sides that part too early, ties, further turns) are skipped."""
        skipped: list[Skipped] = []
        rows = [_pair(r) for r in self._read(split, "preferences", skipped)]
        return self._told(Preferences, split, rows, skipped, work)

    def _told(
        self, kind: type[AnyTable], split: str, rows: list[dict[str, Any]], skipped: list[Skipped], work: Workspace
    ) -> AnyTable:
        """The table; rows that were skipped are counted, and all listed in `skipped.jsonl` beside it."""
        table = kind.of(self._table(kind, split, rows, skipped))
        if not skipped:
            return table
        reasons = Counter(a.reason for a in skipped)
        told = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common(_NAMED_IN_A_NOTICE))
        work.count(rows_skipped=len(skipped))
        work.notice(
            f"{len(skipped)} rows of '{self.name}' skipped, {len(rows)} kept in this split: {told} (each is listed in "
            "skipped.jsonl beside the table)"
        )
        table.save(work.output)
        lines = [json.dumps({"row": a.number, "reason": a.reason}) + "\n" for a in skipped]
        (work.output / "skipped.jsonl").write_text("".join(lines))
        return kind(work.output)

    def policy(self) -> Path:
        path = Path(self.name).expanduser()
        if not path.exists():
            path = download_model(self.name, self._commits.get("model") or self._revision)
        check_model(path)
        return path.resolve()

    def _read(self, split: str, what: str, skipped: list[Skipped]) -> Iterator[Read]:
        """Every row of a split that gives `what`; place and fault of every unusable row go into `skipped`."""
        table = self._choose(split)
        form: Format | None = None
        for number, (where, row) in enumerate(table.rows.read(), 1):
            form = form or self._recognised(where, row, what)
            try:
                example = _example(where, form, row)
            except Unusable as e:
                skipped.append(Skipped(where, number, str(e)))
                continue
            name = prompt_id(example.prompt)
            if table.holds(name):
                yield Read(where, number, example, name, row)

    def _table(self, kind: type[AnyTable], split: str, rows: list[dict[str, Any]], skipped: list[Skipped]) -> pa.Table:
        if not rows:
            faults = (
                f"; {len(skipped)} rows were skipped, the first is {skipped[0].where}: {skipped[0].reason}"
                if skipped
                else ""
            )
            raise DataError(f"source '{self.name}' has no row for {kind.__name__} in its split '{split}'{faults}")
        return pa.Table.from_pylist(rows, schema=kind.SCHEMA)

    def _recognised(self, where: str, row: Mapping[str, Any], what: str) -> Format:
        form = recognise(list(row))
        if form is None:
            raise DataError(
                f"{where}: no known format has the columns {sorted(row)}; rename them to one of\n{describe()}"
            )
        if what not in form.gives:
            raise SpecError(
                f"source '{self.name}' gives no {what}: its format is {form.name}, which gives {', '.join(form.gives)}"
            )
        return form

    def _choose(self, split: str) -> Share:
        """The split of that name if there are several; else a share by hash."""
        splits = self._splits
        if len(splits) == 1:
            return self._share(split, next(iter(splits.values())), 1.0)
        if split in splits:
            return Share(splits[split])
        held_out = next((name for name in _HELD_OUT if name in splits), None)
        if split == "heldout" and held_out:
            return Share(splits[held_out])
        if "train" in splits and split in ("rm", "policy", "gate", "sft"):
            return self._share(split, splits["train"], SHARES["heldout"][0])
        raise SpecError(f"source '{self.name}' has no split '{split}'; it has {sorted(splits)}")

    def _share(self, split: str, rows: Rows, whole: float) -> Share:
        """A share of `rows`; `whole`: where the shares end, because what lies above has a split of its own."""
        shares = SHARES | _UNIONS
        if split not in shares:
            raise SpecError(f"source '{self.name}' is divided by hash; it has no split '{split}' but {sorted(shares)}")
        low, high = shares[split]
        return Share(rows, low / whole, min(1.0, high / whole))

    @cached_property
    def _splits(self) -> dict[str, Rows]:
        path = Path(self.name).expanduser()
        if path.is_dir():
            return open_directory(path, self._subset)
        if path.exists():
            return {"train": open_file(path)}
        return open_hub(self.name, self._subset, self._commits.get("dataset") or self._revision)


def _example(where: str, form: Format, row: Mapping[str, Any]) -> Example:
    missing = sorted(c for c in form.columns if c not in row)
    if missing:
        raise DataError(f"{where}: the format is {form.name}, and this row has no {', '.join(missing)}")
    empty = sorted(c for c in form.columns if row[c] is None)
    if empty:
        raise Unusable(f"{', '.join(empty)} is null")
    try:
        return form.read(row)
    except (TypeError, ValueError, KeyError, IndexError) as e:
        raise Unusable(f"no row of the format {form.name}: {e}") from None


def _prompt(r: Read) -> dict[str, Any]:
    kept = {name: r.row[name] for name in ("truth", "group") if isinstance(r.row.get(name), str)}
    weight = r.row.get("weight")
    return {**kept, "prompt_id": r.prompt_id, "prompt": r.example.prompt, "weight": weight and float(weight)}


def _demonstration(r: Read, skipped: list[Skipped]) -> dict[str, Any] | None:
    answer = r.example.completion if r.example.completion is not None else r.example.chosen
    if answer is None:
        skipped.append(Skipped(r.where, r.number, "it has no answer that is worth learning"))
        return None
    return {**_prompt(r), "completion_id": digest("file", r.prompt_id, str(r.number)), "completion": answer}


def _pair(r: Read) -> dict[str, Any]:
    e = r.example
    return {
        **_prompt(r), "chosen_id": digest("file", r.prompt_id, str(r.number), "chosen"),
        "rejected_id": digest("file", r.prompt_id, str(r.number), "rejected"),
        "chosen": e.chosen, "rejected": e.rejected, "p": e.p, "margin": e.margin, "source": "file",
    }  # fmt: skip
