"""Answers matched at random, each in at most one pair, the more probable winner chosen."""

import polars as pl

from tasks.contract import Seed
from tasks.judging.noise import uniform
from tasks.judging.oriented import TIE, oriented


def disjoint(pairs: pl.DataFrame, *, seed: Seed = 0) -> pl.DataFrame:
    """Half as many pairs as answers, without a common answer; chosen is what the oracle finds more probable to win.

    RSO's "first-round-rank" (arXiv 2309.06657, section 3.3). Ties (p = ½) and unanswered pairs are left out, and of an
    odd number of answers one. The matching belongs to (seed, the draws): the table's order does not change it.

    Args:
        seed: the matching.
    """
    sides = [pairs.select("prompt", id=f"{side}_id") for side in ("a", "b")]
    answers = pl.concat(sides).unique()
    noise = uniform(seed, answers["id"], answers["id"])
    order = answers.with_columns(noise=noise).sort("prompt", "noise", "id")
    match = order.select("id", match=pl.int_range(pl.len()).over("prompt") // 2)
    a_match, b_match = (
        pairs.select(id=f"{side}_id").join(match, on="id", how="left", maintain_order="left")["match"]
        for side in ("a", "b")
    )
    kept = pairs.filter((a_match == b_match) & ((pairs["p"] - 0.5).abs() > TIE))
    return oriented(kept, pl.col("p") < 0.5)
