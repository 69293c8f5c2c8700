"""One pair per prompt: its first answer, and the one that the oracle can compare with it least."""

import polars as pl

from tasks.contract import DataError
from tasks.judging.oriented import TIE, oriented


def most_uncertain(pairs: pl.DataFrame) -> pl.DataFrame:
    """The first answer to each prompt against the one with the largest uncertainty, of equal ones the first.

    With a table that begins with the policy's own samples (`concat` adds other temperatures, older checkpoints or the
    base's), this is optimistic exploration: one answer exploits, its partner teaches most. None where nothing is
    uncertain, as between equal texts. Ask people about these pairs (`judge_pairs`): p is the uncertain oracle's own.
    Raises DataError where the oracle does not know its uncertainty.

    Source: Xiong et al., arXiv 2312.11456, Algorithm 2 (the enhancer that maximises the relative uncertainty).
    """
    unknown = pairs["uncertainty"].null_count()
    if unknown:
        raise DataError(
            f"{unknown} of {len(pairs)} pairs have no uncertainty: the rule `most_uncertain` needs the answers of an "
            "`ensemble` of several members, or with features"
        )
    of_first = pairs.filter(pl.col("a") == pl.col("a").min().over("prompt"), pl.col("uncertainty") > TIE)
    ranked = of_first.sort("prompt", "uncertainty", "b", descending=[False, True, False], maintain_order=True)
    kept = ranked.unique("prompt", keep="first", maintain_order=True)
    return oriented(kept, pl.col("p") < 0.5)
