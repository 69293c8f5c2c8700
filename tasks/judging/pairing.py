"""Pairs of rows and the probability that one beats the other: arrays over pairs, without loops over rows.

Axis letters: G prompts, R rows, M pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tasks.attributes import Blend
from tasks.contract import DataError
from tasks.judging.grouping import Ints, Strings, indices
from tasks.judging.journal import Journal
from tasks.judging.noise import uniform
from tasks.kinds import Oracle, Scorer

Floats = npt.NDArray[np.float64]


class QuestionPairs(NamedTuple):
    """M pairs of rows of one block; `p` is NaN for no answer."""

    a: Ints
    b: Ints
    p: Floats
    a_first: npt.NDArray[np.bool_] | None = None
    """Whether a was shown first; None for an oracle that does not depend on the order."""
    uncertainty: Floats | None = None
    """How uncertain the oracle is of p, NaN for no answer; None for an oracle that does not know."""


def pairs_within(sizes: Ints) -> tuple[Ints, Ints]:
    """All unordered pairs a < b of the rows of each prompt, given `(G,)` numbers of rows."""
    ends = np.repeat(np.cumsum(sizes), sizes)
    rows = np.arange(len(ends))
    counts = ends - 1 - rows
    a = np.repeat(rows, counts)
    return a, a + 1 + _ranges(counts)


def pairs_across(sizes: Ints, others: Ints) -> tuple[Ints, Ints]:
    """Every row of each prompt with every row of the other table for that prompt; b indexes the other table."""
    counts = np.repeat(others, sizes)
    a = np.repeat(np.arange(len(counts)), counts)
    return a, np.repeat(np.repeat(np.cumsum(others) - others, sizes), counts) + _ranges(counts)


def _ranges(counts: Ints) -> Ints:
    """0 … c − 1 for each c, concatenated."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


class Questions:
    """The distinct (prompt, text, truth) of a block: equal texts are one question."""

    def __init__(self, block: pa.Table) -> None:
        keys = pl.from_arrow(block.select(["prompt_id", "completion", "truth"]))
        assert isinstance(keys, pl.DataFrame)
        distinct = keys.with_row_index("row").group_by(keys.columns, maintain_order=True).agg(pl.col("row").first())
        numbered = distinct.with_row_index("question")
        joined = keys.join(numbered, on=keys.columns, how="left", nulls_equal=True, maintain_order="left")
        self.of_row: Ints = joined["question"].to_numpy().astype(np.int64)
        """`(R,)`: index of each row's question."""
        self._table = block.select(["prompt", "completion", "truth"]).take(numbered["row"].to_arrow())

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def scores(self, oracle: Scorer, journal: Journal) -> Floats:
        """The oracle's score of each row, `(R,)`, NaN for no answer; each distinct question is queried once."""

        def query(shard: slice) -> list[float | None]:
            rows = self._table.slice(shard.start, shard.stop - shard.start).to_pydict()
            return list(oracle.score(rows["prompt"], rows["completion"], rows["truth"]))

        return journal.answers(len(self), query)[self.of_row]

    def blended(self, blend: Blend, journal: Journal) -> tuple[Floats, Floats]:
        """The score of each row by an ensemble, `(R,)`, and those of its members, `(R, M)`, NaN for no answer; each
        distinct question is queried once."""

        def query(shard: slice) -> list[Sequence[float] | None]:
            rows = self._table.slice(shard.start, shard.stop - shard.start).to_pydict()
            return list(blend.scores(rows["prompt"], rows["completion"], rows["truth"]))

        members = journal.answers(len(self), query, len(blend.names))
        scores = blend.combine(self._table.column("prompt").to_pylist(), members)
        return scores[self.of_row], members[self.of_row]

    def measures(self, oracle: Scorer, journal: Journal) -> Floats:
        """What an oracle with M attributes measures of each row, `(R, M)`, NaN for no answer."""

        def query(shard: slice) -> list[Sequence[float] | None]:
            rows = self._table.slice(shard.start, shard.stop - shard.start).to_pydict()
            return list(oracle.measure(rows["prompt"], rows["completion"], rows["truth"]))

        return journal.answers(len(self), query, len(oracle.attributes))[self.of_row]

    def probabilities(self, a: Ints, b: Ints, oracle: Oracle, journal: Journal) -> Floats:
        """P(a beats b) with a shown first, for `(M,)` questions a and b; each distinct pair is queried once."""
        keys, inverse = np.unique(a * len(self) + b, return_inverse=True)

        def query(shard: slice) -> list[float | None]:
            x, y = np.divmod(keys[shard], max(1, len(self)))
            left, right = (self._table.take(indices(i)).to_pydict() for i in (x, y))
            answers = oracle.compare(left["prompt"], left["completion"], right["completion"], left["truth"])
            return [_probability(p) for p in answers]

        return journal.answers(len(keys), query)[inverse]

    def uncertainties(self, a: Ints, b: Ints, oracle: Oracle, journal: Journal) -> Floats:
        """How uncertain the oracle is of which of the rows a and b is better, `(M,)`; equal texts: 0.

        Each distinct unordered pair is queried once.
        """
        left, right = self.of_row[a], self.of_row[b]
        differ = left != right
        low, high = np.minimum(left, right)[differ], np.maximum(left, right)[differ]
        keys, inverse = np.unique(low * len(self) + high, return_inverse=True)

        def query(shard: slice) -> list[float | None]:
            x, y = np.divmod(keys[shard], max(1, len(self)))
            first, second = (self._table.take(indices(i)).to_pydict() for i in (x, y))
            found = oracle.uncertainty(first["prompt"], first["completion"], second["completion"], first["truth"])
            return list(found)

        spread = np.zeros(len(a))
        spread[differ] = journal.answers(len(keys), query)[inverse]
        return spread


def _probability(p: float | None) -> float | None:
    if p is not None and not 0 <= p <= 1:
        raise DataError(f"the oracle returned {p}; a probability is in [0, 1]")
    return p


def compare_by_scores(oracle: Scorer, questions: Questions, a: Ints, b: Ints, journal: Journal) -> QuestionPairs:
    """Bradley-Terry: P(a beats b) = σ(scale · (score(a) − score(b)))."""
    from scipy.special import expit

    scores = questions.scores(oracle, journal)
    return QuestionPairs(a, b, expit(oracle.scale * (scores[a] - scores[b])))


def scores_compared(block: pa.Table, sizes: Ints, scale: float) -> pa.Table:
    """Rows of WinProbs: every two answers of each prompt, by the column `score`; null where one has no score."""
    from scipy.special import expit

    a, b = pairs_within(sizes)
    scores = block.column("score").to_numpy(zero_copy_only=False)
    p = expit(scale * (scores[a] - scores[b]))
    ids = block.column("completion_id").combine_chunks()
    return pa.table({
        "prompt_id": block.column("prompt_id").combine_chunks().take(indices(a)), "a_id": ids.take(indices(a)),
        "b_id": ids.take(indices(b)), "p": pa.array(p, mask=np.isnan(p)), "first": pa.nulls(len(a), pa.string()),
    })  # fmt: skip


def compare_unordered(oracle: Oracle, questions: Questions, a: Ints, b: Ints, journal: Journal) -> QuestionPairs:
    """For an antisymmetric oracle: each unordered pair of texts is queried once; a text against itself is ½."""
    in_order = questions.of_row[a] < questions.of_row[b]
    return compare_ordered(oracle, questions, a, b, in_order, journal)._replace(a_first=None)


def compare_ordered(
    oracle: Oracle, questions: Questions, a: Ints, b: Ints, a_first: npt.NDArray[np.bool_], journal: Journal
) -> QuestionPairs:
    """For an oracle that depends on the order: `a_first` says which answer each row shows first; p is P(a beats b).

    A text against itself is ½, the mean of both orders, and is not queried.
    """
    left, right = questions.of_row[a], questions.of_row[b]
    first, second = np.where(a_first, left, right), np.where(a_first, right, left)
    p = np.full(len(a), 0.5)
    differ = left != right
    answers = questions.probabilities(first[differ], second[differ], oracle, journal)
    p[differ] = np.where(a_first[differ], answers, 1 - answers)
    return QuestionPairs(a, b, p, a_first)


def answer_pairs(
    questions: Questions, ids: Strings, a: Ints, b: Ints, oracle: Oracle, orders: str, journal: Journal
) -> QuestionPairs:
    """The oracle's answers to `(M,)` pairs of rows, in the way that suits the oracle.

    A Scorer scores the rows; an antisymmetric oracle is queried once per unordered pair of texts; any other in `both`
    orders, as two rows each, or in a `random` one for each pair, which depends on the rows' `ids` alone.
    """
    if isinstance(oracle, Scorer):
        return compare_by_scores(oracle, questions, a, b, journal)
    if oracle.antisymmetric:
        return compare_unordered(oracle, questions, a, b, journal)
    if orders == "both":
        a, b = np.repeat(a, 2), np.repeat(b, 2)
        return compare_ordered(oracle, questions, a, b, np.arange(len(a)) % 2 == 0, journal)
    known = ids.combine_chunks()
    a_first = uniform(0, known.take(indices(a)), known.take(indices(b))) < 0.5
    return compare_ordered(oracle, questions, a, b, a_first, journal)


def mean_p(pairs: QuestionPairs, count: int) -> Floats:
    """`(count,)`: P(a beats b) of each pair that `answer_pairs` answered, the mean over the answered orders; NaN
    without one."""
    orders = pairs.p.reshape(count, len(pairs.p) // max(1, count))
    answered = (~np.isnan(orders)).sum(axis=1)
    return np.where(answered > 0, np.nansum(orders, axis=1) / np.maximum(answered, 1), np.nan)
