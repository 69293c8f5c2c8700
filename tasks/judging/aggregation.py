"""From questions in both orders to one probability for each pair of answers: three ways, of which one is SPPO's code.

L_ij = logit p is the log-odds that answer i beats j with i shown first; K answers to a prompt; axis M: questions.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from tasks.contract import DataError
from tasks.judging.grouping import Ints

Floats = npt.NDArray[np.float64]
Aggregation = Literal["probabilities", "logits", "scores"]


class OrientedQuestions(NamedTuple):
    """The questions of a block, `(M,)` each, whose answer `a` is in an earlier row than `b`."""

    a: Ints
    b: Ints
    p: Floats
    """P(a beats b), NaN for no answer."""
    uncertainty: Floats
    """NaN: unknown."""
    order: Ints
    """1: a was shown first, −1: b was, 0: the oracle does not depend on the order."""


class AnsweredPairs(NamedTuple):
    """The answered pairs of a block, each unordered pair once with a < b; p is one probability of both orders."""

    a: Ints
    b: Ints
    p: Floats
    uncertainty: Floats
    """NaN: unknown."""


def mean_probabilities(questions: OrientedQuestions, rows: int) -> AnsweredPairs:
    """The mean of p over the answered questions of each pair, in order of its rows. rows: those of the block."""
    known = ~np.isnan(questions.p)
    keys, p, uncertainty = (x[known] for x in (questions.a * rows + questions.b, questions.p, questions.uncertainty))
    if (np.diff(keys) <= 0).any():
        keys, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        p, uncertainty = (np.bincount(inverse, values) / counts for values in (p, uncertainty))
    return AnsweredPairs(keys // max(1, rows), keys % max(1, rows), p, uncertainty)


def mean_logits(questions: OrientedQuestions, rows: int) -> AnsweredPairs:
    """σ((L_ij − L_ji) / 2): log-odds are averaged over both orders. A pair that lacks an order's answer is left out.

    `Blender.compare` of LLM-Blender, mode `[A,B]+[B,A]`. Raises DataError where a pair was queried in one order only,
    or p is 0 or 1, whose log-odds are infinite.
    """
    keys = questions.a * rows + questions.b
    _check_orders(keys, questions.order)
    known = ~np.isnan(questions.p)
    saturated = int(((questions.p == 0) | (questions.p == 1)).sum())
    if saturated:
        raise DataError(
            f"{saturated} of {int(known.sum())} answers are a probability of 0 or 1, whose log-odds are infinite: use "
            "`aggregation: probabilities`"
        )
    kept = known & (_sums(keys, np.where(known, questions.order, 0)) == 0)
    pairs = mean_probabilities(questions._replace(p=np.where(kept, logit(questions.p), np.nan)), rows)
    return pairs._replace(p=expit(pairs.p))


def by_scores(pairs: AnsweredPairs, sizes: Ints) -> AnsweredPairs:
    """σ(s_i − s_j) with s_i = mean_j (L_ij − L_ji) over all K answers, the answer itself at 0. p: of `mean_logits`.

    The win rates of SPPO's code (`scripts/compute_prob.py`) on the scores of `Blender.rank` (`get_scores_from_cmps`,
    `max_logits`): no answer can beat another by chance of their comparison alone, and where scores explain the
    comparisons it is σ(2 · logit P), sharper than P. Prompts that lack a pair are left out, because scores over other
    opponents would not be comparable. sizes: `(G,)` answers per prompt.
    """
    rows = int(sizes.sum())
    prompt = np.repeat(np.arange(len(sizes)), sizes)
    odds = logit(pairs.p)
    total = np.bincount(pairs.a, odds, rows) - np.bincount(pairs.b, odds, rows)
    score = 2 * total / np.maximum(sizes, 1)[prompt]
    complete = np.bincount(prompt[pairs.a], minlength=len(sizes)) == sizes * (sizes - 1) // 2
    kept = complete[prompt[pairs.a]]
    made = pairs._replace(p=expit(score[pairs.a] - score[pairs.b]))
    return AnsweredPairs(*(column[kept] for column in made))


def _check_orders(keys: Ints, order: Ints) -> None:
    """Raise DataError where a pair was queried in one order more often than in the other."""
    uneven = _sums(keys, order) != 0
    if uneven.any():
        raise DataError(
            f"{len(np.unique(keys[uneven]))} of {len(np.unique(keys))} pairs were queried in one order only, and "
            "log-odds are averaged over both: `compare` with `orders: both`, or use `aggregation: probabilities`"
        )


def _sums(keys: Ints, values: Ints) -> Ints:
    """`(M,)`: the sum of the values of all questions with the same key."""
    _, inverse = np.unique(keys, return_inverse=True)
    return np.bincount(inverse, values, minlength=1)[inverse].astype(np.int64)
