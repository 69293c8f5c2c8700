"""Every answered pair, the more probable winner chosen."""

import polars as pl

from tasks.judging.oriented import TIE, oriented


def all_pairs(pairs: pl.DataFrame) -> pl.DataFrame:
    """Every answered pair; chosen is what the oracle finds more probable to win. Ties (p = ½) are left out."""
    return oriented(pairs.filter((pl.col("p") - 0.5).abs() > TIE), pl.col("p") < 0.5)
