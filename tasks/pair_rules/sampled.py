"""Answered pairs, labelled as a noisy annotator would."""

import polars as pl

from tasks.contract import Seed
from tasks.judging.noise import uniform
from tasks.judging.oriented import matched, oriented


def sampled(pairs: pl.DataFrame, *, disjoint: bool = False, seed: Seed = 0) -> pl.DataFrame:
    """Every answered pair, the chosen one sampled: a with probability p. p stays P(chosen beats rejected).

    On drawn labels DPO's optimum is the KL-regularised one; a deterministic winner has no finite optimum. The noise
    belongs to (seed, the two draws, whichever comes first): neither order nor batch changes a label.

    Args:
        disjoint: keep only the pairs of a random matching, in which no two have an answer in common, so that the pairs
            are independent samples. Half as many pairs as answers remain.
        seed: noise of the labels, and the matching.
    """
    if disjoint:
        pairs = matched(pairs, seed)
    a_low = pairs["a_id"] < pairs["b_id"]
    low = pairs["a_id"].zip_with(a_low, pairs["b_id"])
    high = pairs["b_id"].zip_with(a_low, pairs["a_id"])
    low_wins = pl.Series(uniform(seed, low, high)) < pl.Series(pairs["p"].zip_with(a_low, 1 - pairs["p"]))
    return oriented(pairs, pl.lit(low_wins != a_low))
