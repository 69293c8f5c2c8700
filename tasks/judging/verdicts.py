"""Verdicts of several annotators on the same pairs, from tables of win probabilities."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.judging.agreement import Floats, Ints
from tasks.judging.oriented import TIE
from tasks.kinds import WinProbs

_UNORDERED = ["prompt_id", "low", "high"]


class JointVerdicts(NamedTuple):
    """M pairs of answers and what J annotators think of them."""

    names: list[str]
    pairs: pl.DataFrame
    """prompt_id, a_id, b_id: each pair once, in the order of its first question, whose a it has."""
    verdicts: Floats
    """`(M, J)`: 1: a wins, −1: b wins, 0: a tie, NaN: no answer."""

    @property
    def prompts(self) -> Ints:
        """`(M,)`: the number of each pair's prompt."""
        return self.pairs["prompt_id"].rank("dense").to_numpy().astype(np.int64)


def verdicts_of(tables: Sequence[WinProbs], names: Sequence[str], tie: float = TIE) -> JointVerdicts:
    """The verdicts of all annotators of the tables: |p − ½| ≤ tie is a tie, p the mean over the orders of a pair.

    Which answer of a pair is called a matters to kappas, because annotators may prefer the one that stands first in a
    file: it is that of the first table that has the pair.

    names: of the tables. A table in which several annotators answered has one for each of them, by its own name; where
    two would have the same name, the table's name comes before it.
    """
    rows = pl.concat([_answers(table, at) for at, table in enumerate(tables)])
    pairs = rows.unique(_UNORDERED, keep="first", maintain_order=True).with_row_index("pair")
    rows = rows.join(pairs.select("pair", *_UNORDERED, pair_a="a_id"), on=_UNORDERED, how="left", maintain_order="left")
    oriented = pl.when(pl.col("a_id") == pl.col("pair_a")).then("p").otherwise(1 - pl.col("p"))
    means = rows.group_by("table", "annotator", "pair", maintain_order=True).agg(oriented.mean().alias("p"))
    known = means.select("table", "annotator").unique(maintain_order=True)
    numbered = known.with_columns(annotator_number=pl.int_range(pl.len()))
    means = means.join(numbered, on=["table", "annotator"], how="left", nulls_equal=True, maintain_order="left")
    verdicts = np.full((len(pairs), len(known)), np.nan)
    lead = means["p"].fill_null(float("nan")).to_numpy() - 0.5
    verdicts[means["pair"].to_numpy(), means["annotator_number"].to_numpy()] = np.where(
        np.abs(lead) <= max(tie, TIE), 0.0, np.sign(lead)
    )
    return JointVerdicts(_names(known.rows(), names), pairs.select("prompt_id", "a_id", "b_id"), verdicts)


def _answers(table: WinProbs, at: int) -> pl.DataFrame:
    return table.frame.select(
        "prompt_id", "a_id", "b_id", "annotator", low=pl.min_horizontal("a_id", "b_id"),
        high=pl.max_horizontal("a_id", "b_id"), p=pl.col("p").fill_nan(None), table=pl.lit(at),
    )  # fmt: skip


def _names(known: Sequence[tuple[int, str | None]], names: Sequence[str]) -> list[str]:
    """The name of each (table, annotator), without the slashes that names of metrics are divided by."""
    short = [(names[table] if who is None else who).replace("/", "|") for table, who in known]
    return [
        f"{names[table]} {name}" if short.count(name) > 1 and who is not None else name
        for name, (table, who) in zip(short, known, strict=True)
    ]
