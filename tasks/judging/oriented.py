"""Helpers of pair rules."""

import polars as pl

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
