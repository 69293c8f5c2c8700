"""One pair per prompt: the answer with the highest win rate against the one with the lowest."""

import polars as pl

from tasks.judging.oriented import TIE, oriented


def best_and_worst(pairs: pl.DataFrame) -> pl.DataFrame:
    """Highest against lowest win rate of each prompt; none where all win equally often, or where p is unknown.

    The rule of SPPO's, Snorkel's and RLHFlow's code (`max_min`). p may be below ½: a non-transitive oracle can prefer
    the answer that wins less often.
    """
    last = pl.col("answers") - 1
    a_best, b_best = (
        (pl.col(f"{x}_place") == 0) & (pl.col(f"{y}_place") == last) & (pl.col(f"{x}_win_rate") > worse + TIE)
        for x, y, worse in (("a", "b", pl.col("b_win_rate")), ("b", "a", pl.col("a_win_rate")))
    )
    return oriented(pairs.filter(a_best | b_best), b_best)
