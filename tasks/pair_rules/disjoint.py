"""Answers matched at random, each in at most one pair, the more probable winner chosen."""

import polars as pl

from tasks.contract import Seed
from tasks.judging.oriented import TIE, matched, oriented


def disjoint(pairs: pl.DataFrame, *, seed: Seed = 0) -> pl.DataFrame:
    """Half as many pairs as answers, without a common answer; chosen is what the oracle finds more probable to win.

    RSO's "first-round-rank" (arXiv 2309.06657, section 3.3). Ties (p = ½) and unanswered pairs are left out, and of an
    odd number of answers one. The matching belongs to (seed, the draws): the table's order does not change it.

    Args:
        seed: the matching.
    """
    apart = pl.col("p") - 0.5
    return oriented(matched(pairs, seed).filter(apart.abs() > TIE), apart < 0)
