"""Which rows meet, and how probable it is that one beats the other: arrays over pairs, no loop over rows.

Axis letters: G prompts, R rows, M pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tasks.contract import DataError
from tasks.judging.grouping import Ints, indices
from tasks.judging.journal import Journal
from tasks.kinds import Oracle, Scorer

Floats = npt.NDArray[np.float64]


class QuestionPairs(NamedTuple):
    """M pairs of rows of one block; `p` NaN: no answer."""

    a: Ints
    b: Ints
    p: Floats
    a_first: npt.NDArray[np.bool_] | None = None
    """Whether a was shown first; None where the oracle has no order."""


def pairs_within(sizes: Ints) -> tuple[Ints, Ints]:
    """All unordered pairs a < b of the rows of each prompt, given `(G,)` numbers of rows."""
    ends = np.repeat(np.cumsum(sizes), sizes)
    rows = np.arange(len(ends))
    counts = ends - 1 - rows
    a = np.repeat(rows, counts)
    return a, a + 1 + _counted(counts)


def pairs_across(sizes: Ints, others: Ints) -> tuple[Ints, Ints]:
    """Every row of each prompt with every row that the other table has for it; b counts the other table's rows."""
    counts = np.repeat(others, sizes)
    a = np.repeat(np.arange(len(counts)), counts)
    return a, np.repeat(np.repeat(np.cumsum(others) - others, sizes), counts) + _counted(counts)


def _counted(counts: Ints) -> Ints:
    """0 … c − 1 for each c, end to end."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


class Questions:
    """The distinct (prompt, text, truth) of a block: equal texts are one question, however often they were drawn."""

    def __init__(self, block: pa.Table) -> None:
        keys = pl.from_arrow(block.select(["prompt_id", "completion", "truth"]))
        assert isinstance(keys, pl.DataFrame)
        distinct = keys.with_row_index("row").group_by(keys.columns, maintain_order=True).agg(pl.col("row").first())
        numbered = distinct.with_row_index("question")
        joined = keys.join(numbered, on=keys.columns, how="left", nulls_equal=True, maintain_order="left")
        self.of_row: Ints = joined["question"].to_numpy().astype(np.int64)
        """`(R,)`: number of the row's question."""
        self._table = block.select(["prompt", "completion", "truth"]).take(numbered["row"].to_arrow())

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def scores(self, oracle: Scorer, journal: Journal) -> Floats:
        """The oracle's score of each question, NaN where it gave none."""

        def ask(shard: slice) -> list[float | None]:
            rows = self._table.slice(shard.start, shard.stop - shard.start).to_pydict()
            return list(oracle.score(rows["prompt"], rows["completion"], rows["truth"]))

        return journal.ask(len(self), ask)

    def probabilities(self, a: Ints, b: Ints, oracle: Oracle, journal: Journal) -> Floats:
        """P(a beats b), a shown first, for `(M,)` questions a and b; each distinct pair is asked once."""
        keys, inverse = np.unique(a * len(self) + b, return_inverse=True)

        def ask(shard: slice) -> list[float | None]:
            x, y = np.divmod(keys[shard], max(1, len(self)))
            left, right = (self._table.take(indices(i)).to_pydict() for i in (x, y))
            found = oracle.compare(left["prompt"], left["completion"], right["completion"], left["truth"])
            return [_probability(p) for p in found]

        return journal.ask(len(keys), ask)[inverse]


def _probability(p: float | None) -> float | None:
    if p is not None and not 0 <= p <= 1:
        raise DataError(f"the oracle answered {p}, which is no probability")
    return p


def by_scores(oracle: Scorer, questions: Questions, a: Ints, b: Ints, journal: Journal) -> QuestionPairs:
    """Bradley-Terry: P(a beats b) = σ(scale · (score(a) − score(b)))."""
    from scipy.special import expit

    scores = questions.scores(oracle, journal)[questions.of_row]
    return QuestionPairs(a, b, expit(oracle.scale * (scores[a] - scores[b])))


def unordered(oracle: Oracle, questions: Questions, a: Ints, b: Ints, journal: Journal) -> QuestionPairs:
    """An antisymmetric oracle: each unordered pair of texts is asked once; a text against itself is ½, unasked."""
    left, right = questions.of_row[a], questions.of_row[b]
    p = np.full(len(a), 0.5)
    asked = left != right
    low, high = np.minimum(left, right)[asked], np.maximum(left, right)[asked]
    found = questions.probabilities(low, high, oracle, journal)
    p[asked] = np.where(left[asked] == low, found, 1 - found)
    return QuestionPairs(a, b, p)


def ordered(
    oracle: Oracle, questions: Questions, a: Ints, b: Ints, a_first: npt.NDArray[np.bool_], journal: Journal
) -> QuestionPairs:
    """An oracle that looks at the order: row by row it is shown a first or b first; p is always P(a beats b).

    A text against itself is ½, unasked: what both orders together would say.
    """
    left, right = questions.of_row[a], questions.of_row[b]
    shown, second = np.where(a_first, left, right), np.where(a_first, right, left)
    p = np.full(len(a), 0.5)
    asked = left != right
    found = questions.probabilities(shown[asked], second[asked], oracle, journal)
    p[asked] = np.where(a_first[asked], found, 1 - found)
    return QuestionPairs(a, b, p, a_first)
