"""Data and models from outside: a file, a directory or a hub repository as a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import pyarrow as pa

from tasks.contract import DataError, SpecError
from tasks.formats.answers import Example
from tasks.formats.checkpoint import check_model, download_model
from tasks.formats.columns import columns_of
from tasks.formats.prompts import Unusable, into_user
from tasks.formats.rows import Format, describe, recognise
from tasks.formats.splits import Share, choose
from tasks.formats.tables import RawRows, open_directory, open_file, open_hub
from tasks.ids import digest, prompt_id
from tasks.kinds import AnyTable, Demonstrations, Preferences, Prompts
from tasks.skipped import RowLog
from tasks.source import Answers, Source

System = Literal["keep", "into_user"]
Doubtful = Literal["skip", "swap", "keep"]


class ReadRow(NamedTuple):
    """A row that was read: its number in the table, the format's example, its prompt's id, the row itself."""

    number: int
    example: Example
    prompt_id: str
    row: Mapping[str, Any]


class Outside(Source):
    """A file, a directory or a hub repository. Parameters and splits: see `tasks.sources.path.path`."""

    def __init__(
        self, path: str, subset: str | None, revision: str | None, system: System = "keep", doubtful: Doubtful = "skip"
    ) -> None:
        super().__init__(path)
        self._subset, self._revision = subset, revision
        self._system, self._doubtful = system, doubtful
        self._commits: Mapping[str, str] = {}

    def pinned(self, identity: Mapping[str, str]) -> Self:
        """Held to the commit of which the key was made, whatever the hub's branch says by now."""
        pinned = type(self)(self.name, self._subset, self._revision, self._system, self._doubtful)
        pinned._commits = dict(identity)
        return pinned

    def prompts(self, split: str, log: RowLog) -> Prompts:
        """Distinct prompts in the order in which they are first met."""
        first: dict[str, dict[str, Any]] = {}
        for r in self._read(split, "prompts", log):
            if r.prompt_id not in first:
                first[r.prompt_id] = _prompt(r)
        return _table(Prompts, list(first.values()))

    def demonstrations(self, split: str, answers: Answers, log: RowLog) -> Demonstrations:
        """Answers of rows that have one, or the chosen ones of pairs. What a label calls undesirable is left out."""
        if answers == "golden":
            raise SpecError(f"source '{self.name}' does not tell golden answers apart; leave `answers` at mixed")
        rows, undesirable = [], 0
        for r in self._read(split, "demonstrations", log):
            undesirable += r.example.doubt == "undesirable"
            if r.example.doubt != "undesirable":
                rows.append(_demonstration(r))
        if undesirable:
            log.work.notice(f"{self._title}: {undesirable:,} answers whose label is false are no demonstrations")
        return _table(Demonstrations, rows)

    def preferences(self, split: str, log: RowLog) -> Preferences:
        """The pairs. Rows that are none (sides that part too early, ties, further turns) are skipped."""
        rows = [_pair(r) for r in self._read(split, "preferences", log)]
        if repeated := _repeated(rows):
            log.work.notice(f"{self._title} has pairs to look at, which are kept: {repeated}")
        return _table(Preferences, rows)

    def policy(self) -> Path:
        path = Path(self.name).expanduser()
        if not path.exists():
            path = download_model(self.name, self._commits.get("model") or self._revision)
        check_model(path)
        return path.resolve()

    def _read(self, split: str, what: str, log: RowLog) -> Iterator[ReadRow]:
        """Every usable row of a split; all others are skipped, whatever split they would belong to."""
        share = choose(self.name, self._splits, split, what)
        form = self._recognised(share, what, log)
        log.what, log.form = self._title, form.name
        for number, (where, row) in enumerate(share.rows.read(), 1):
            log.read += 1
            try:
                example = self._settled(form.read(row), what)
            except Unusable as e:
                log.skip(number, str(e), where)
                continue
            name = prompt_id(example.prompt)
            if share.holds(name):
                yield ReadRow(number, example, name, row)

    def _recognised(self, share: Share, what: str, log: RowLog) -> Format:
        """The format of all rows; says which it is and which columns are left. Raises SpecError, DataError."""
        columns = columns_of(row for _, row in share.rows.read())
        if not columns:
            raise DataError(f"source '{self.name}' has no row")
        try:
            form = recognise(columns)
        except DataError as e:
            raise DataError(f"source '{self.name}': {e}. Understood are {describe()}") from None
        if what not in form.gives:
            raise SpecError(
                f"source '{self.name}' gives no {what}: its rows are {form.name}, which give {', '.join(form.gives)}. "
                f"Its columns are {sorted(columns)}; understood are {describe()}"
            )
        unused = form.unused(columns)
        left = f"; columns not used: {', '.join(unused)}" if unused else ""
        named = f"{self._title}, split {share.name}," if len(self._splits) > 1 else self._title
        log.work.notice(f"{named} is read as {form.name}{left}")
        return form

    def _settled(self, example: Example, what: str) -> Example:
        """The example as the source's parameters want it. Raises Unusable where they give no use for it."""
        if self._system == "into_user":
            example = example._replace(prompt=into_user(example.prompt))
        if what == "prompts":
            return example
        if what == "demonstrations" and example.chosen is None and example.completion is None:
            raise Unusable("it has no answer")
        if example.doubt == "inverted" and self._doubtful == "swap":
            return _swapped(example)
        if example.doubt in _DOUBTS and self._doubtful != "keep":
            raise Unusable(_DOUBTS[example.doubt])
        return example

    @property
    def _title(self) -> str:
        """What notices call it: a file or folder by its name, a repository by its id."""
        path = Path(self.name).expanduser()
        return path.name if path.exists() else self.name

    @cached_property
    def _splits(self) -> dict[str, RawRows]:
        path = Path(self.name).expanduser()
        if path.is_dir():
            return open_directory(path, self._subset)
        if path.exists():
            return {"train": open_file(path)}
        return open_hub(self.name, self._subset, self._commits.get("dataset") or self._revision)


_DOUBTS = {
    "tie": "a tie: both answers are judged alike",
    "inverted": "by its own scores or margin the rejected answer is the better one",
}


def _swapped(e: Example) -> Example:
    """The pair the other way round, and with it its probability and its margin."""
    p, margin = None if e.p is None else 1 - e.p, None if e.margin is None else -e.margin
    return e._replace(chosen=e.rejected, rejected=e.chosen, p=p, margin=margin, doubt="")


def _table(kind: type[AnyTable], rows: Sequence[dict[str, Any]]) -> AnyTable:
    return kind.of(pa.Table.from_pylist(list(rows), schema=kind.SCHEMA))


def _repeated(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many pairs are there more than once, and how many are there the other way round too; empty if none."""
    counts = Counter((r["prompt_id"], r["chosen"], r["rejected"]) for r in rows)
    again = sum(n - 1 for n in counts.values())
    against = sum(n for (prompt, a, b), n in counts.items() if a != b and (prompt, b, a) in counts)
    spaces = sum(r["chosen"] != r["rejected"] and r["chosen"].strip() == r["rejected"].strip() for r in rows)
    facts = [
        (again, "exact copies of an earlier pair"),
        (against, "contradictions (the same answers occur the other way round too)"),
        (spaces, "answers that differ in spaces at their ends only"),
    ]
    return ", ".join(f"{what}: {n:,}" for n, what in facts if n)


def _prompt(r: ReadRow) -> dict[str, Any]:
    kept = {name: r.row[name] for name in ("truth", "group") if isinstance(r.row.get(name), str)}
    return {**kept, "prompt_id": r.prompt_id, "prompt": r.example.prompt, "weight": r.example.weight}


def _demonstration(r: ReadRow) -> dict[str, Any]:
    answer = r.example.completion if r.example.completion is not None else r.example.chosen
    return {**_prompt(r), "completion_id": digest("file", r.prompt_id, str(r.number)), "completion": answer}


def _pair(r: ReadRow) -> dict[str, Any]:
    e = r.example
    return {
        **_prompt(r), "chosen_id": digest("file", r.prompt_id, str(r.number), "chosen"),
        "rejected_id": digest("file", r.prompt_id, str(r.number), "rejected"),
        "chosen": e.chosen, "rejected": e.rejected, "p": e.p, "margin": e.margin, "source": "file",
    }  # fmt: skip
