"""From answered pairs to win rates and places: arrays over the rows of a block, summed in a fixed order.

Axis letters: R rows (answers), G prompts, M pairs. NumPy's `bincount` adds in the order of the pairs, whatever the
number of threads, so equal inputs give equal bytes.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.contract import DataError
from tasks.judging.aggregation import (
    Aggregation,
    AnsweredPairs,
    OrientedQuestions,
    by_scores,
    mean_logits,
    mean_probabilities,
)
from tasks.judging.grouping import Grouped, Ints, Strings, row_indices
from tasks.judging.oriented import TIE

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Rates(NamedTuple):
    """`(R,)` each."""

    win_rate: Floats
    """NaN without an answered opponent."""
    opponents: Ints
    """Number of answered opponents, including the answer itself where it counts."""


def answered_pairs(
    ids: Strings, prompt_of: Ints, questions: pa.Table, counts: Ints, aggregation: Aggregation = "probabilities"
) -> AnsweredPairs:
    """The answered pairs of a block's prompts, by row; p by `aggregation`, of which `scores` takes p of `logits`.

    ids: `(R,)` completion_id of each answer; prompt_of: `(R,)` its prompt; questions: WinProbs of the same prompts;
    counts: `(G,)` questions per prompt. Raises DataError if an id is not that of an answer to the prompt, or a p is no
    probability.
    """
    mean = mean_probabilities if aggregation == "probabilities" else mean_logits
    return mean(_oriented_questions(ids, prompt_of, questions, counts), len(ids))


def _oriented_questions(ids: Strings, prompt_of: Ints, questions: pa.Table, counts: Ints) -> OrientedQuestions:
    a, b = (row_indices(ids, questions.column(side), f"win_probs.{side}") for side in ("a_id", "b_id"))
    of_prompt = np.repeat(np.arange(len(counts)), counts)
    if ((prompt_of[a] != of_prompt) | (prompt_of[b] != of_prompt)).any():
        raise DataError("win_probs has questions whose answers belong to another prompt")
    if (a == b).any():
        raise DataError("win_probs has questions that compare a draw with itself")
    p = _probabilities(questions.column("p"))
    uncertainty: Floats = questions.column("uncertainty").to_numpy(zero_copy_only=False).astype(np.float64)
    first = questions.column("first").to_numpy(zero_copy_only=False)
    order = (first == "a").astype(np.int64) - (first == "b")
    swap = a > b
    return OrientedQuestions(
        np.minimum(a, b), np.maximum(a, b), np.where(swap, 1 - p, p), uncertainty, np.where(swap, -order, order)
    )


def _probabilities(column: Strings) -> Floats:
    """P(a beats b) of each question, NaN where it is null."""
    p: Floats = column.to_numpy(zero_copy_only=False)
    null = column.is_null().to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(~null & ~((p >= 0) & (p <= 1)))  # a NaN that is not null is in no interval
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(p)} values of win_probs.p are not probabilities, the first is {p[wrong[0]]}: they "
            "must be in [0, 1], or null where the oracle gave no answer"
        )
    return p


def win_rates_of_block(pairs: AnsweredPairs, rows: int, *, count_self: bool) -> Rates:
    """Mean P of each answer over its answered opponents; `count_self` adds the answer itself at ½ (SPPO's code)."""
    opponents = np.bincount(np.concatenate([pairs.a, pairs.b]), minlength=rows).astype(np.int64)
    won = np.asarray(np.bincount(pairs.a, pairs.p, rows) + np.bincount(pairs.b, 1 - pairs.p, rows), np.float64)
    total = opponents + int(count_self)
    mean = (won + 0.5 * count_self) / np.maximum(total, 1)
    return Rates(np.where(opponents == 0, np.nan, mean), total)


def places(win_rate: Floats, k: Ints, sizes: Ints) -> Ints:
    """`(R,)` place of each answer within its prompt: 0 = highest win rate; ties are ordered by k.

    An answer without a win rate comes last.
    """
    prompt = np.repeat(np.arange(len(sizes)), sizes)
    place = np.empty(len(k), np.int64)
    order = np.lexsort((k, -np.round(win_rate / TIE), prompt))
    place[order] = np.arange(len(k)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place


def any_of_prompt(flags: Flags, sizes: Ints) -> Flags:
    """`(G,)`: whether a flag is set in any row of the prompt; every prompt has rows."""
    return np.logical_or.reduceat(flags, np.cumsum(sizes) - sizes)


def block_of(
    rows: Grouped, questions: Grouped, first: int, last: int, aggregation: Aggregation = "probabilities"
) -> tuple[pa.Table, Ints, AnsweredPairs]:
    """The answers of the prompts `first:last`, their number per prompt, and their answered pairs."""
    block, sizes = rows.rows(first, last), rows.sizes(first, last)
    ids, prompt_of = block.column("completion_id"), np.repeat(np.arange(len(sizes)), sizes)
    own, counts = questions.rows(first, last), questions.sizes(first, last)
    pairs = answered_pairs(ids, prompt_of, own, counts, aggregation)
    return block, sizes, by_scores(pairs, sizes) if aggregation == "scores" else pairs
