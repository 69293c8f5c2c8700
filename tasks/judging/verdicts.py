"""Verdicts of several annotators on the same pairs, from tables of win probabilities."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.judging.agreement import Floats, Ints
from tasks.judging.oriented import TIE
from tasks.kinds import WinProbs

PAIR = ["prompt_id", "a_id", "b_id"]


class Verdicts(NamedTuple):
    """M pairs of answers and what J annotators think of them."""

    names: list[str]
    pairs: pl.DataFrame
    """prompt_id, a_id, b_id: each pair once, in order of its first question."""
    verdicts: Floats
    """`(M, J)`: 1: a wins, −1: b wins, 0: a tie, NaN: no answer."""

    @property
    def prompts(self) -> Ints:
        """`(M,)`: the number of each pair's prompt."""
        return self.pairs["prompt_id"].rank("dense").to_numpy().astype(np.int64)


def verdicts_of(tables: Sequence[WinProbs], names: Sequence[str], tie: float = TIE) -> Verdicts:
    """The verdicts of all annotators of the tables: |p − ½| ≤ tie is a tie, p the mean over the orders of a pair.

    names: of the tables. A table in which several annotators answered has one for each of them, by its own name; where
    two would have the same name, the table's name comes before it.
    """
    rows = pl.concat([_answers(table, at) for at, table in enumerate(tables)])
    means = rows.group_by("table", "annotator", *PAIR, maintain_order=True).agg(pl.col("p").mean())
    known = means.select("table", "annotator").unique(maintain_order=True)
    numbered = known.with_columns(annotator_number=pl.int_range(pl.len()))
    means = means.join(numbered, on=["table", "annotator"], how="left", nulls_equal=True, maintain_order="left")
    pairs = means.select(PAIR).unique(maintain_order=True).with_row_index("pair")
    means = means.join(pairs, on=PAIR, how="left", maintain_order="left")
    verdicts = np.full((len(pairs), len(known)), np.nan)
    lead = means["p"].fill_null(float("nan")).to_numpy() - 0.5
    verdicts[means["pair"].to_numpy(), means["annotator_number"].to_numpy()] = np.where(
        np.abs(lead) <= max(tie, TIE), 0.0, np.sign(lead)
    )
    return Verdicts(_names(known.rows(), names), pairs.drop("pair"), verdicts)


def _answers(table: WinProbs, at: int) -> pl.DataFrame:
    """The rows of a table, in each of which the id of a comes before that of b."""
    rows = table.frame.select(*PAIR, "annotator", p=pl.col("p").fill_nan(None))
    in_order = pl.col("a_id") <= pl.col("b_id")
    return rows.select(
        "prompt_id", "annotator", a_id=pl.min_horizontal("a_id", "b_id"), b_id=pl.max_horizontal("a_id", "b_id"),
        p=pl.when(in_order).then("p").otherwise(1 - pl.col("p")), table=pl.lit(at),
    )  # fmt: skip


def _names(known: Sequence[tuple[int, str | None]], names: Sequence[str]) -> list[str]:
    """The name of each (table, annotator), without the slashes that names of metrics are divided by."""
    short = [(names[table] if who is None else who).replace("/", "|") for table, who in known]
    return [
        f"{names[table]} {name}" if short.count(name) > 1 and who is not None else name
        for name, (table, who) in zip(short, known, strict=True)
    ]
