"""Every answered pair in the order of sampling, whoever wins."""

import polars as pl

from tasks.judging.oriented import oriented


def as_sampled(pairs: pl.DataFrame) -> pl.DataFrame:
    """Every answered pair, ties included; chosen is the answer that comes first in the table, not the better one.

    For losses of the two answers' difference, such as REBEL (arXiv 2404.16767), which need no winner: p may be below ½
    and the margin negative.
    """
    return oriented(pairs, pl.lit(False))
