"""External data and models: a file, a directory or a hub repository as a source."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import pyarrow as pa

from tasks.contract import DataError, SpecError
from tasks.formats.answers import Example
from tasks.formats.answers import number as number_in
from tasks.formats.checkpoint import check_model, download_model
from tasks.formats.columns import Columns, columns_of, group_column
from tasks.formats.prompts import TURNS, UnusableRow, later_turns, system_into_user
from tasks.formats.rows import Format, detect_format, pairs_of_lists, supported_columns, with_labels
from tasks.formats.scored import scored_answers
from tasks.formats.splits import Share, select_split
from tasks.formats.tables import RawRows, open_directory, open_file, open_hub
from tasks.formats.verdicts import check_verdicts, player_columns, players_in, verdict_columns, verdicts_in
from tasks.ids import digest, prompt_id
from tasks.kinds import AnyTable, Demonstrations, Labels, Preferences, Prompts, Scores, WinProbs
from tasks.skipped import RowLog
from tasks.source import Answers, Source

System = Literal["keep", "into_user"]
Doubtful = Literal["skip", "swap", "keep"]


class ReadRow(NamedTuple):
    """A parsed row, with its number in the table and the id of its prompt."""

    number: int
    example: Example
    prompt_id: str
    row: Mapping[str, Any]
    places: tuple[str, str] = ("", "")
    """Of a pair from lists of answers: the place of either answer in its list."""


class ExternalSource(Source):
    """A file, a directory or a hub repository. Parameters and splits: see `tasks.sources.path.path`."""

    def __init__(
        self, path: str, subset: str | None, revision: str | None, system: System = "keep", doubtful: Doubtful = "skip"
    ) -> None:
        super().__init__(path)
        self._subset, self._revision = subset, revision
        self._system, self._doubtful = system, doubtful
        self._commits: Mapping[str, str] = {}
        self._group: str | None = None

    def pinned(self, identity: Mapping[str, str]) -> Self:
        """The same source at the commit in the key, even if the hub's branch has moved."""
        pinned = type(self)(self.name, self._subset, self._revision, self._system, self._doubtful)
        pinned._commits = dict(identity)
        return pinned

    def prompts(self, split: str, log: RowLog) -> Prompts:
        """Distinct prompts in order of first occurrence."""
        first: dict[str, dict[str, Any]] = {}
        for r in self._read(split, "prompts", log):
            if r.prompt_id not in first:
                first[r.prompt_id] = _prompt(r)
        return _table(Prompts, list(first.values()))

    def demonstrations(self, split: str, answers: Answers, log: RowLog) -> Demonstrations:
        """The rows' answers, or the chosen ones of pairs, without those labelled undesirable."""
        if answers == "golden":
            raise SpecError(f"source '{self.name}' does not mark golden answers; use `answers: mixed`")
        rows, undesirable = [], 0
        for r in self._read(split, "demonstrations", log):
            undesirable += r.example.doubt == "undesirable"
            if r.example.doubt != "undesirable":
                rows.append(_demonstration(r))
        if undesirable:
            log.work.notice(f"{self._title}: {undesirable:,} answers labelled false are not used as demonstrations")
        return _table(Demonstrations, rows)

    def preferences(self, split: str, log: RowLog) -> Preferences:
        """The pairs. Invalid ones (different prompts, ties, further turns) are skipped."""
        rows = [_pair(r) for r in self._read(split, "preferences", log)]
        if suspicious := _suspicious(rows):
            log.work.notice(f"{self._title} has suspicious pairs, which are kept: {suspicious}")
        return _table(Preferences, rows)

    def labels(self, split: str, log: RowLog) -> Labels:
        """The labelled answers; of a pair the chosen one as desirable and the other as undesirable.

        Raises DataError if all labels are equal.
        """
        rows = [label for r in self._read(split, "labels", log) for label in _labels(r)]
        counts = Counter(row["label"] for row in rows)
        if len(counts) == 1:
            skipped = f" ({len(log.skipped):,} rows cannot be used: {log.reasons})" if log.skipped else ""
            raise DataError(
                f"{self._title}: all {len(rows):,} usable answers have the label {rows[0]['label']}{skipped}, but a "
                "loss of labels needs desirable and undesirable ones. To imitate answers that are all good, load them "
                "as demonstrations"
            )
        return _table(Labels, rows)

    def scores(self, split: str, attributes: Sequence[str] | None, log: RowLog) -> Scores:
        """The answers with their numbers; a row without any is skipped."""
        names: list[str] = []
        rows: list[dict[str, Any]] = []
        draws: Counter[str] = Counter()
        for r in self._read(
            split, "scores", log, lambda form, columns: scored_answers(form, columns, attributes, names)
        ):
            rows.append(_scored(r, names, draws[r.prompt_id]))
            draws[r.prompt_id] += 1
        return _table(Scores, rows, {"attributes": json.dumps(names)})

    def judgements(
        self, split: str, annotators: Sequence[str] | None, log: RowLog, players: Sequence[str] | None = None
    ) -> WinProbs:
        """The verdicts on the pairs, ties among them; each answer has the id that it has in `preferences`, or with
        `players` the name of its writer."""
        names: list[str] = []

        def extended(form: Format, columns: Columns) -> Format:
            return player_columns(verdict_columns(form, columns, annotators, names), columns, players)

        read = list(self._read(split, "judgements", log, extended))
        if read and (unclear := check_verdicts([r.row for r in read], names)):
            log.work.notice(f"{self._title}: {unclear:,} of {len(read) * len(names):,} verdicts are missing or unclear")
        rows = [_judgement(r, *verdict) for r in read for verdict in verdicts_in(r.row, r.example, names)]
        if players:
            writers = (players_in(r.row, players) for r in read for _ in names or [""])
            rows = [{**row, "a_id": a, "b_id": b} for row, (a, b) in zip(rows, writers, strict=True)]
        return _table(WinProbs, rows)

    def policy(self) -> Path:
        path = self._model_directory()
        check_model(path)
        return path.resolve()

    def adapter(self) -> Path:
        return self._model_directory().resolve()

    def _model_directory(self) -> Path:
        path = Path(self.name).expanduser()
        return path if path.exists() else download_model(self.name, self._commits.get("model") or self._revision)

    def _read(
        self, split: str, what: str, log: RowLog, extend: Callable[[Format, Columns], Format] = lambda form, _: form
    ) -> Iterator[ReadRow]:
        """Every usable row of a split. Unusable rows are skipped, whichever split they would belong to."""
        share = select_split(self.name, self._splits, split, what)
        form = self._detect_format(share, what, log, extend)
        log.what, log.form = self._title, form.name
        parts = pairs_of_lists if what == "preferences" else _whole_row
        rows = ((n, where, part) for n, (where, row) in enumerate(share.rows.read(), 1) for part in parts(row))
        for number, where, (places, row) in rows:
            log.read += 1
            try:
                example = self._apply_parameters(form.read(row), what)
            except UnusableRow as e:
                log.skip(number, str(e), where)
                continue
            name = prompt_id(example.prompt)
            if share.contains(name):
                grouped = {"group": row.get(self._group)} if self._group else {}
                turns = later_turns(row) if TURNS.name in form.required and row.get("truth") is None else {}
                yield ReadRow(number, example, name, {**row, **turns, **grouped}, places)

    def _detect_format(
        self, share: Share, what: str, log: RowLog, extend: Callable[[Format, Columns], Format]
    ) -> Format:
        """The format of all rows, which a notice reports with the unused columns. Raises SpecError, DataError."""
        columns = columns_of(row for _, row in share.rows.read())
        if not columns:
            raise DataError(f"source '{self.name}' has no rows")
        try:
            form = extend(detect_format(columns), columns)
            form = with_labels(form, columns) if what == "labels" else form
        except DataError as e:
            raise DataError(f"source '{self.name}': {e}. Supported columns: {supported_columns()}") from None
        if what not in form.provides:
            raise SpecError(
                f"source '{self.name}' has no {what}: its rows are {form.name}. Its "
                f"columns are {sorted(columns)}; supported columns: {supported_columns()}"
            )
        self._group = group_column(columns)
        grouped = f"; groups are those of the column {self._group}" if self._group not in (None, "group") else ""
        unused = [name for name in form.unused(columns) if name != self._group]
        ignored = f"; columns not used: {', '.join(unused)}" if unused else ""
        title = f"{self._title}, split {share.name}," if len(self._splits) > 1 else self._title
        log.work.notice(f"{title} is read as {form.name}{grouped}{ignored}")
        return form

    def _apply_parameters(self, example: Example, what: str) -> Example:
        """The example as the source's parameters specify. Raises UnusableRow where they exclude it."""
        if self._system == "into_user":
            example = example._replace(prompt=system_into_user(example.prompt))
        if what == "prompts":
            return example
        if what == "demonstrations" and example.chosen is None and example.completion is None:
            raise UnusableRow("it has no answer")
        if what == "labels" and example.label is None and example.chosen == example.rejected:
            raise UnusableRow("both answers are equal, so neither is the desirable one")
        if example.doubt == "inverted" and self._doubtful == "swap":
            return _swap(example)
        if example.doubt in _DOUBTS and self._doubtful != "keep" and (what, example.doubt) != ("judgements", "tie"):
            raise UnusableRow(_DOUBTS[example.doubt])
        return example

    @property
    def _title(self) -> str:
        """Its name in notices: of the file or folder, or the repository's id."""
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
    "tie": "a tie: both answers are rated equally",
    "inverted": "the rejected answer is better by the row's own scores or margin",
}


def _whole_row(row: Mapping[str, Any]) -> list[tuple[tuple[str, str], Mapping[str, Any]]]:
    return [(("", ""), row)]


def _swap(e: Example) -> Example:
    """The pair with chosen and rejected exchanged, and its probability and margin accordingly."""
    p, margin = None if e.p is None else 1 - e.p, None if e.margin is None else -e.margin
    return e._replace(chosen=e.rejected, rejected=e.chosen, p=p, margin=margin, doubt="", turned=not e.turned)


def _table(kind: type[AnyTable], rows: Sequence[dict[str, Any]], metadata: Mapping[str, str] | None = None) -> AnyTable:
    return kind.of(pa.Table.from_pylist(list(rows), schema=kind.SCHEMA), metadata)


def _suspicious(rows: Sequence[Mapping[str, Any]]) -> str:
    """The numbers of copies, contradictions and pairs that differ in whitespace only; empty if there are none."""
    counts = Counter((r["prompt_id"], r["chosen"], r["rejected"]) for r in rows)
    copies = sum(n - 1 for n in counts.values())
    contradictions = sum(n for (prompt, a, b), n in counts.items() if a != b and (prompt, b, a) in counts)
    spaces = sum(r["chosen"] != r["rejected"] and r["chosen"].strip() == r["rejected"].strip() for r in rows)
    facts = [
        (copies, "exact copies of an earlier pair"),
        (contradictions, "contradictions (the same answers also occur inverted)"),
        (spaces, "answers that differ only in whitespace at their ends"),
    ]
    return ", ".join(f"{what}: {n:,}" for n, what in facts if n)


def _prompt(r: ReadRow) -> dict[str, Any]:
    optional = {"group": r.row["group"]} if isinstance(r.row.get("group"), str) else {}
    if (truth := r.row.get("truth")) is not None:
        optional["truth"] = truth if isinstance(truth, str) else json.dumps(truth, sort_keys=True, default=str)
    return {**optional, "prompt_id": r.prompt_id, "prompt": r.example.prompt, "weight": r.example.weight}


def _demonstration(r: ReadRow) -> dict[str, Any]:
    answer = r.example.completion if r.example.completion is not None else r.example.chosen
    return {**_prompt(r), "completion_id": digest("file", r.prompt_id, str(r.number)), "completion": answer}


def _labels(r: ReadRow) -> list[dict[str, Any]]:
    """The row's labelled answer, or both answers of a pair."""
    e = r.example
    if e.label is not None:
        return [{**_demonstration(r), "label": e.label}]
    return [
        {
            **_prompt(r), "completion_id": digest("file", r.prompt_id, str(r.number), side), "completion": text,
            "label": side == "chosen",
        }
        for side, text in (("chosen", e.chosen), ("rejected", e.rejected))
    ]  # fmt: skip


def _scored(r: ReadRow, attributes: Sequence[str], k: int) -> dict[str, Any]:
    values = [number_in(r.row, name) for name in attributes]
    known = [value for value in values if value is not None]
    return {
        **_demonstration(r), "stream": 0, "k": k, "token_logps": [], "finish_reason": "stop", "attributes": values,
        "score": sum(known) / len(known) if len(known) == len(values) else None,
    }  # fmt: skip


def _ids(r: ReadRow) -> tuple[str, str]:
    """Of the chosen answer and of the other."""
    sides = (f"{side}{place}" for side, place in zip(("chosen", "rejected"), r.places, strict=True))
    chosen, rejected = (digest("file", r.prompt_id, str(r.number), side) for side in sides)
    return chosen, rejected


def _judgement(r: ReadRow, annotator: str | None, p: float | None) -> dict[str, Any]:
    chosen, rejected = _ids(r)
    first, second = (rejected, chosen) if r.example.turned else (chosen, rejected)
    return {"prompt_id": r.prompt_id, "a_id": first, "b_id": second, "p": p, "annotator": annotator}


def _pair(r: ReadRow) -> dict[str, Any]:
    e, (chosen, rejected) = r.example, _ids(r)
    return {
        **_prompt(r), "chosen_id": chosen, "rejected_id": rejected,
        "chosen": e.chosen, "rejected": e.rejected, "p": e.p, "margin": e.margin, "source": "file",
    }  # fmt: skip
