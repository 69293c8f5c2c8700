"""Tokenization of a table: token columns from its texts; bad rows are skipped with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.chat import Refusal
from tasks.contract import DataError, SpecError, Workspace
from tasks.kinds import Model, Table
from tasks.rendering import AnswerText, Rendered, Template
from tasks.skipped import RowLog, SkippedRow
from tasks.template import template_digest, tokenizer_of
from tasks.training.pair_texts import PairTexts, reads_pairs, texts_of
from tasks.training.row_checks import skip_reasons
from tasks.training.truncation import Truncation, cut_long_rows

Arrow = Any
"""An Arrow table or column: its published types know too little of it."""
compute: Any = pc

Flags = npt.NDArray[np.bool_]

_ROWS = 4096
"""Rows converted to Python objects at a time."""


@dataclass(frozen=True)
class Tokenized:
    """A table with its tokens, the skipped rows, and counts of rendered rows."""

    table: Arrow
    skipped: list[SkippedRow]
    rendered: int
    rendered_skipped: int
    """How many of the skipped rows were rendered here; the others had sampled tokens."""
    other_template: bool
    """Whether tokens of another template were replaced."""
    shortened_prompts: int
    """Rows whose prompt tokens were shortened to those of the whole conversation (see `tasks/rendering.py`)."""
    truncated: int
    """Rows of the table that were cut, because they were too long."""

    def log(self, what: str, work: Workspace, max_skipped: float) -> RowLog:
        """The log of read and skipped rows."""
        return RowLog(
            work, max_skipped, what, read=self.table.num_rows + len(self.skipped),
            sampled=self.table.num_rows + len(self.skipped) - self.rendered,
            sampled_skipped=len(self.skipped) - self.rendered_skipped, skipped=self.skipped,
        )  # fmt: skip


def with_tokens(table: Table, policy: Model, max_length: int | None, truncation: Truncation = "refuse") -> Tokenized:
    """`table` with token ids by the policy's template; existing ones of this template stay. Raises DataError."""
    data: Arrow = table.table
    template = table.metadata.get("template")
    if "prompt_tokens" not in data.column_names:
        raise DataError(f"{type(table).__name__} has no answers to tokenize")
    other = template is not None and template != template_digest(policy)
    missing = _missing(data, everything=other or template is None)
    fresh = np.logical_or.reduce(list(missing.values()))
    refused: dict[int, str] = {}
    shortened = 0
    if fresh.any():
        data, refused, shortened = _rendered(data, texts_of(policy), missing, fresh)
    cut = np.zeros(data.num_rows, np.bool_)
    if max_length is not None and truncation != "refuse":
        if reads_pairs(policy):
            raise SpecError(f"truncation: {truncation} would cut a pair of texts anywhere; an encoder needs `refuse`")
        data, cut = cut_long_rows(table, data, max_length, truncation, tokenizer_of(policy).bos_token_id)
    reasons = skip_reasons(table, data, missing, refused, max_length)
    good = np.array([r is None for r in reasons], np.bool_)
    skipped = [_entry(data, i, reason) for i, reason in enumerate(reasons) if reason]
    usable = data.filter(pa.array(good)) if skipped else data
    rendered, rendered_skipped, cut_rows = (int(rows.sum()) for rows in (fresh, fresh & ~good, cut & good))
    return Tokenized(usable, skipped, rendered, rendered_skipped, other, shortened, cut_rows)


def _missing(data: Arrow, *, everything: bool) -> dict[str, Flags]:
    """Token column → which rows lack tokens. Answers are rendered again where the prompt's tokens are missing."""
    columns = [c for c in data.column_names if c.endswith("_tokens")]
    if everything:
        return {c: np.ones(data.num_rows, np.bool_) for c in columns}
    nulls = {c: np.array(compute.is_null(data.column(c)).to_numpy(), np.bool_) for c in columns}
    return {c: flags | nulls["prompt_tokens"] for c, flags in nulls.items()}


def _rendered(
    data: Arrow, template: Template | PairTexts, missing: dict[str, Flags], fresh: Flags
) -> tuple[Arrow, dict[int, str], int]:
    """The table with the missing tokens, reasons of refusals by row, and the number of shortened prompts."""
    refused: dict[int, str] = {}
    tokens: dict[str, list[Any]] = {name: [] for name in missing}
    shortened = 0
    for rows in np.array_split(np.flatnonzero(fresh), -(-int(fresh.sum()) // _ROWS)):
        part = data.take(pa.array(rows))
        for row, result in zip(rows.tolist(), _render_part(part, template, missing, rows), strict=True):
            if isinstance(result, Refusal):
                refused[row] = result.reason
            else:
                shortened += result.shortened
            for name, values in tokens.items():
                values.append([] if isinstance(result, Refusal) else result.tokens[name])
    for name, values in tokens.items():
        field = data.schema.field(name)
        column = _merged(data.column(name), pa.array(values, field.type), fresh)
        data = data.set_column(data.column_names.index(name), field, column)
    return data, refused, shortened


class _Row(NamedTuple):
    tokens: dict[str, Any]
    """Token column → ids."""
    shortened: bool


def _render_part(
    part: Arrow, template: Template | PairTexts, missing: dict[str, Flags], rows: npt.NDArray[np.int64]
) -> list[_Row | Refusal]:
    """The token columns of each row."""
    prompts, given = part.column("prompt").to_pylist(), part.column("prompt_tokens").to_pylist()
    given = [None if m else g for m, g in zip(missing["prompt_tokens"][rows], given, strict=True)]
    sides = [_Side(part, name, flags[rows]) for name, flags in missing.items() if name != "prompt_tokens"]
    answers = [a for i, prompt in enumerate(prompts) for side in sides for a in side.answers(i, prompt)]
    rendered = iter(template.answers(answers))
    return [
        _row(given[i], {side: [next(rendered) for _ in side.answers(i, prompt)] for side in sides}, i)
        for i, prompt in enumerate(prompts)
    ]  # fmt: skip


def _row(given: list[int] | None, rendered: dict[_Side, list[Rendered | Refusal]], i: int) -> _Row | Refusal:
    every = [answer for answers in rendered.values() for answer in answers]
    refused = next((a for a in every if isinstance(a, Refusal)), None)
    if refused:
        return refused
    complete = [a for a in every if isinstance(a, Rendered)]
    if not complete:
        return Refusal("there is no answer")
    length = min(a.shared for a in complete) if given is None else len(given)
    if any(length > a.shared or (given is not None and a.prompt[:length] != given) for a in complete):
        return Refusal("the written answer does not continue the prompt tokens of the sampled one")
    prompt = complete[0].prompt
    tokens = {side.name: side.tokens(i, rendered[side], length) for side in rendered}
    return _Row({"prompt_tokens": prompt[:length], **tokens}, given is None and length < len(prompt))


class _Side:
    """One token column of some rows, and the texts that belong to it."""

    def __init__(self, part: Arrow, name: str, missing: Flags) -> None:
        self.name, self._missing = name, missing
        self._lists = name == "completions_tokens"
        self._texts = part.column(name.removesuffix("_tokens")).to_pylist()
        self._given = part.column(name).to_pylist()
        self._ended = _ended(part, name)

    def answers(self, i: int, prompt: Any) -> list[AnswerText]:
        """The answers of row i without tokens."""
        if not self._missing[i]:
            return []
        texts, ended = self._texts[i], self._ended[i]
        if not self._lists:
            return [AnswerText(prompt, texts, ended)]
        return [
            AnswerText(prompt, t, e)
            for t, e in zip(texts, [True] * len(texts) if ended is True else ended, strict=True)
        ]

    def tokens(self, i: int, rendered: Sequence[Rendered | Refusal], length: int) -> Any:
        if not self._missing[i]:
            return self._given[i]
        ids = [a.answer_after(length) for a in rendered if isinstance(a, Rendered)]
        return ids if self._lists else ids[0]


def _ended(part: Arrow, name: str) -> list[Any]:
    """Whether answers ended by themselves: a truncated one gets no token that ends the turn.

    One flag per row, or a list of them for a ranking.
    """
    if "finish_reason" in part.column_names:
        return [reason != "length" for reason in part.column("finish_reason").to_pylist()]
    column = name.removesuffix("_tokens") + "_ended"
    if column not in part.column_names:
        return [True] * part.num_rows
    return [True if flag is None else flag for flag in part.column(column).to_pylist()]


def _merged(old: Arrow, new: Arrow, fresh: Flags) -> Arrow:
    """`new` where `fresh`, else `old`."""
    order = np.where(fresh, len(old) + np.cumsum(fresh) - 1, np.arange(len(old)))
    return pa.chunked_array([*old.chunks, new], old.type).take(pa.array(order))


def _entry(data: Arrow, row: int, reason: str) -> SkippedRow:
    ids = [c for c in ("prompt_id", "completion_id", "chosen_id", "rejected_id") if c in data.column_names]
    return SkippedRow(row + 1, reason, ids={c: data.column(c)[row].as_py() for c in ids})
