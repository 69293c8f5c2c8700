"""What a judged table shows of its oracle: whether the order or the length of answers moves it.

Two answers with equal texts are left out of all of it: which is better is no question, and none is asked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.contract import DataError
from tasks.judging.oriented import TIE


class OracleStatistics(NamedTuple):
    """Shares are in [0, 1], correlations in [−1, 1]; None: the table does not determine it."""

    order_consistency: float | None
    """Share of the pairs answered in both orders that have the same winner, or are a tie, in both; 1 is best."""
    first_position: float | None
    """Share of decided answers (no ties) in which the side that was shown first wins; ½ without a bias."""
    ties: float | None
    """Share of answered questions with equal sides: P = ½, or equal scores of two answers to a prompt."""
    nulls: float | None
    """Share of questions without an answer."""
    length_correlation: float | None
    """Correlation of preference with length in characters, see the function; 0 without a bias, if quality has none."""

    def known(self) -> dict[str, float]:
        """The statistics that the table determines, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def comparison_statistics(win_probs: pa.Table, *answers: pa.Table) -> OracleStatistics:
    """Statistics of the comparisons `win_probs` (as WinProbs) of `answers` (completion_id, completion).

    With d the difference of the answers' lengths in characters, a minus b, and p the mean over the orders of a pair,

        length_correlation = Σ (p − ½)·d / √(Σ (p − ½)² · Σ d²)

    summed over the answered pairs. It is Pearson's correlation of p and d in the table that has each pair both as
    (a, b) and as (b, a), whose means are ½ and 0; so it does not depend on which answer is called a.

    A p that is NaN counts as null. Raises DataError if an answer of `win_probs` is missing in `answers`, or occurs in
    them with two texts.
    """
    questions = _with_texts(_frame(win_probs, ["a_id", "b_id", "p", "first"]), _texts(answers))
    questions = questions.filter(pl.col("a_text") != pl.col("b_text")).with_columns(winner=_winner())
    pairs = questions.drop_nulls("p").group_by("low", "high", maintain_order=True).agg(
        pl.col("lead").mean(), pl.col("difference").first(),
        both=pl.col("first_low").drop_nulls().n_unique() == 2, same=pl.col("winner").n_unique() == 1,
    )  # fmt: skip
    decided = questions.filter(pl.col("winner") != 0).drop_nulls("first_low")
    return OracleStatistics(
        order_consistency=_number(pairs.filter("both")["same"].mean()),
        first_position=_number(((decided["winner"] > 0) == decided["first_low"]).mean()),
        ties=_number((questions["winner"].drop_nulls() == 0).mean()),
        nulls=_number(questions["p"].is_null().mean()),
        length_correlation=_correlation(pairs["lead"], pairs["difference"], TIE),
    )


def score_statistics(scores: pa.Table) -> OracleStatistics:
    """Statistics of `scores` (prompt_id, completion, score); equal answers to a prompt count once.

    length_correlation is Pearson's correlation of score and length in characters after each has lost its mean over
    the prompt's scored answers, so that it compares answers to one prompt only. ties: the share of pairs of answers to
    one prompt with equal scores. A score that is NaN counts as null. Scores have no order of two sides.
    """
    rows = _frame(scores, ["prompt_id", "completion", "score"]).unique(
        ["prompt_id", "completion"], keep="first", maintain_order=True
    )
    nulls = _number(rows["score"].is_null().mean())
    rows = rows.drop_nulls("score").with_columns(length=pl.col("completion").str.len_chars().cast(pl.Float64))
    rows = rows.select(
        "prompt_id", "score", *((pl.col(x) - pl.col(x).mean().over("prompt_id")).alias(f"{x}_left")
                                for x in ("score", "length")),
    )  # fmt: skip
    same = _pairs_in(rows.group_by("prompt_id", "score").len()["len"])
    all_pairs = _pairs_in(rows.group_by("prompt_id").len()["len"])
    ties = same / all_pairs if all_pairs else None
    rounding = TIE * (_number(rows["score"].abs().max()) or 0.0)
    correlation = _correlation(rows["score_left"], rows["length_left"], rounding)
    return OracleStatistics(None, None, ties, nulls, correlation)


def _frame(table: pa.Table, columns: list[str]) -> pl.DataFrame:
    """The columns as a frame, with NaN as null."""
    frame = pl.DataFrame(pl.from_arrow(table.select(columns)))
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))


def _texts(answers: tuple[pa.Table, ...]) -> pl.DataFrame:
    """id, length in characters and text (its number) of each answer."""
    rows = pl.concat([_frame(table, ["completion_id", "completion"]) for table in answers])
    texts = rows.unique().select(
        id="completion_id", length=pl.col("completion").str.len_chars().cast(pl.Float64),
        text=pl.col("completion").rank("dense"),
    )  # fmt: skip
    if repeated := len(texts) - texts["id"].n_unique():
        raise DataError(f"{repeated} of {len(texts)} answers have the completion_id of another text")
    return texts


def _with_texts(questions: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """The questions with the numbers of their texts, oriented: `low` is the answer whose row in `texts` comes first.

    lead: P(low beats high) − ½; difference: length of low minus that of high; first_low: low was shown first.
    """
    rows = texts.with_row_index("row")
    for side in ("a", "b"):
        named = rows.select(pl.all().name.prefix(f"{side}_"))
        questions = questions.join(named, on=f"{side}_id", how="left", maintain_order="left")
        if missing := questions[f"{side}_row"].null_count():
            raise DataError(f"{missing} of {len(questions)} questions have an {side}_id that is not one of the answers")
    sign = pl.when(pl.col("a_row") < pl.col("b_row")).then(1.0).otherwise(-1.0)
    return questions.select(
        "p", "a_text", "b_text", low=pl.min_horizontal("a_row", "b_row"), high=pl.max_horizontal("a_row", "b_row"),
        lead=sign * (pl.col("p") - 0.5), difference=sign * (pl.col("a_length") - pl.col("b_length")),
        first_low=(pl.col("first") == "a") == (sign > 0),
    )  # fmt: skip


def _winner() -> pl.Expr:
    """1: low wins, −1: high wins, 0: a tie, null: no answer."""
    return pl.when(pl.col("lead").abs() <= TIE).then(0).otherwise(pl.col("lead").sign().cast(pl.Int32))


def _correlation(x: pl.Series, y: pl.Series, rounding: float) -> float | None:
    """Σxy / √(Σx² · Σy²), None where y is 0 everywhere, or no |x| is above `rounding`, what remains of equal values."""
    values, others = x.to_numpy(), y.to_numpy()
    if not (np.abs(values) > rounding).any() or not others.any():
        return None
    return float(np.clip(values @ others / np.sqrt((values @ values) * (others @ others)), -1, 1))


def _pairs_in(counts: pl.Series) -> int:
    """Number of unordered pairs within groups of these sizes."""
    return int((counts.cast(pl.Int64) * (counts.cast(pl.Int64) - 1)).sum()) // 2


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
