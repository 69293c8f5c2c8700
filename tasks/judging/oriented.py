"""Helpers of pair rules."""

import polars as pl

from tasks.contract import Seed
from tasks.judging.noise import uniform

TIE = 1e-9
"""Tolerance for equal probabilities and win rates: sums of the same numbers differ in their last bits."""


def oriented(pairs: pl.DataFrame, b_chosen: pl.Expr) -> pl.DataFrame:
    """The pairs with the chosen answer as `a`, the rejected one as `b`, and p = P(chosen beats rejected).

    b_chosen: whether `b` is the chosen answer of a pair.
    """
    swap = pl.col("b_chosen")
    return pairs.with_columns(b_chosen=b_chosen).select(
        a=pl.when(swap).then("b").otherwise("a"),
        b=pl.when(swap).then("a").otherwise("b"),
        p=pl.when(swap).then(1 - pl.col("p")).otherwise("p"),
    )


def matched(pairs: pl.DataFrame, seed: Seed) -> pl.DataFrame:
    """The pairs of a random matching of each prompt's answers: no two of them have an answer in common.

    Of an odd number of answers one is left over. The matching belongs to (seed, the draws): the table's order does not
    change it. A pair without a row in `pairs` is missing in the result too.
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
    return pairs.filter(a_match == b_match)
