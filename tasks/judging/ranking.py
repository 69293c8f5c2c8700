"""From scored answers to rankings and best answers, block by block: arrays over rows, without loops over prompts.

Axis letters: G prompts, R rows (answers).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.judging.grouping import Grouped, Ints, ended_by_itself, indices
from tasks.kinds import Completions, Rankings

Flags = npt.NDArray[np.bool_]


class BlockRankings:
    """Rankings of blocks of scored answers. `counts` sums over the blocks so far."""

    def __init__(self, rows: Grouped, *, tokens: bool) -> None:
        """tokens: whether every answer has its tokens."""
        self._answers, self._tokens = rows, tokens
        self.counts = {"prompts": 0, "prompts_short": 0, "prompts_level": 0, "answers_unscored": 0}

    def rankings(self, first: int, last: int) -> pa.Table:
        """Rows of Rankings for the prompts `first:last`."""
        block, sizes = self._answers.rows(first, last), self._answers.sizes(first, last)
        score = block.column("score").to_numpy(zero_copy_only=False)
        known = ~np.isnan(score)
        prompt, starts = np.repeat(np.arange(len(sizes)), sizes), np.cumsum(sizes) - sizes
        scored = np.add.reduceat(known, starts, dtype=np.int64)
        short = scored < 2
        level = ~short & (np.fmax.reduceat(score, starts) == np.fmin.reduceat(score, starts))
        totals = len(sizes), short.sum(), level.sum(), (~known).sum()
        for name, n in zip(self.counts, totals, strict=True):
            self.counts[name] += int(n)
        ranked = known & ~(short | level)[prompt]
        return self._rows(block.filter(pa.array(ranked)), scored[~(short | level)])

    def _rows(self, block: pa.Table, sizes: Ints) -> pa.Table:
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        first = indices(offsets[:-1])

        def lists(values: Any) -> Any:
            return pa.ListArray.from_arrays(cast(Any, pa.array(offsets, pa.int32())), values.combine_chunks())

        shared = ["prompt_id", "prompt", "truth", "group", "weight", "prompt_tokens"]
        columns: dict[str, Any] = {name: block.column(name).take(first) for name in shared}
        columns |= {"completion_ids": lists(block.column("completion_id"))}
        columns |= {"completions": lists(block.column("completion")), "scores": lists(block.column("score"))}
        columns["completions_ended"] = lists(ended_by_itself(block.column("finish_reason")))
        tokens = Rankings.SCHEMA.field("completions_tokens").type
        columns["completions_tokens"] = (
            lists(block.column("completion_tokens")) if self._tokens else pa.nulls(len(sizes), tokens)
        )
        return pa.table({name: columns[name] for name in Rankings.SCHEMA.names})


class BlockBest:
    """The best answers of blocks of scored answers. `counts` sums over the blocks so far."""

    def __init__(self, rows: Grouped, n: int) -> None:
        self._rows, self._n = rows, n
        self.counts = {"prompts": 0, "prompts_without_answer": 0, "answers": 0}

    def answers(self, first: int, last: int) -> pa.Table:
        """The n best answers of the prompts `first:last`, best first; the first row of equal scores or equal texts."""
        block, sizes = self._rows.rows(first, last), self._rows.sizes(first, last)
        score = block.column("score").to_numpy(zero_copy_only=False)
        prompt = np.repeat(np.arange(len(sizes)), sizes)
        usable = ~np.isnan(score) & ~_blank(block)
        order = np.lexsort((np.arange(len(score)), -score, prompt))
        order = order[usable[order]]
        order = order[_first_of_each(prompt[order], block.column("completion").take(indices(order)))]
        answers = np.bincount(prompt[order], minlength=len(sizes))
        place = np.arange(len(order)) - np.repeat(np.cumsum(answers) - answers, answers)
        best = order[place < self._n]
        for name, n in zip(self.counts, (len(sizes), (answers == 0).sum(), len(best)), strict=True):
            self.counts[name] += int(n)
        return block.select(Completions.SCHEMA.names).take(indices(best))


def _blank(block: pa.Table) -> Flags:
    trimmed: Any = pc.utf8_trim_whitespace(block.column("completion"))
    return np.array(pc.equal(pc.utf8_length(trimmed), 0).to_numpy(), np.bool_)


def _first_of_each(prompt: Ints, texts: Any) -> Flags:
    """`(R,)`: whether a row is the first with its text among those of its prompt."""
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    encoded: Any = whole.dictionary_encode()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    text = encoded.indices.to_numpy().astype(np.int64)
    _, first = np.unique(np.stack([prompt, text], axis=1), axis=0, return_index=True)
    flags = np.zeros(len(text), np.bool_)
    flags[first] = True
    return flags
