"""An oracle's answers to labelled pairs: how probable it holds each pair's label, and whether the order moved it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.contract import DataError, Workspace
from tasks.judging.attributes import weighted
from tasks.judging.journal import Journal
from tasks.judging.opening import open_oracle
from tasks.judging.oracle_report import report_queries
from tasks.judging.oriented import TIE
from tasks.judging.pairing import Questions, compare_ordered, compare_unordered
from tasks.kinds import Oracle, Preferences, Scorer

Floats = npt.NDArray[np.float64]

SURE = 1e-9
"""Probabilities of oracles that only compare lie between this and one minus it, so that log-odds are finite."""


class JudgedPairs(NamedTuple):
    """Labelled pairs with an oracle's answers."""

    rows: pl.DataFrame
    """pair (its number), prompt_id, group, p, margin, log_odds, of which the last two are NaN without an answer.

    margin: the difference of scores, chosen minus rejected; log_odds: of P(chosen beats rejected). An oracle that only
    compares has the log-odds as its margin. With an order also order_consistency (whether both orders name the same
    winner) and first_position (share of the decided orders in which the answer shown first wins, NaN for two ties),
    both NaN unless both orders were answered.
    """
    has_scores: bool
    has_order: bool


def judged_pairs(
    pairs: Preferences, oracle: Oracle, weights: Mapping[str, float] | None, dtype: str, work: Workspace,
    journal_name: str,
) -> JudgedPairs:  # fmt: skip
    """Query the oracle on all pairs; the journal stores its answers. Raises DataError for a p outside [0, 1].

    weights: of an oracle's attributes; None: all alike.
    """
    live = weighted(open_oracle(oracle, dtype, work), weights)
    rows = pairs.frame.select("prompt_id", "prompt", "truth", "group", "p", "chosen", "rejected")
    _check_labels(rows["p"])
    sides = [rows.select("prompt_id", "prompt", "truth", completion=side) for side in ("chosen", "rejected")]
    questions = Questions(pl.concat(sides).to_arrow(compat_level=pl.CompatLevel.oldest()))
    with Journal(work.path / journal_name, work, live, shared=True) as journal:
        answers = _answers(live, questions, len(rows), journal)
        report_queries(work, journal)
    judged = rows.select("prompt_id", "group", "p", **answers).with_row_index("pair")
    return JudgedPairs(judged, isinstance(live, Scorer), "first_position" in judged.columns)


def with_answers(judged: pl.DataFrame, work: Workspace, who: str) -> pl.DataFrame:
    """The pairs that the oracle answered; a notice counts the others. Raises DataError if there is none."""
    answered = judged.filter(pl.col("log_odds").is_finite())
    if answered.is_empty():
        raise DataError(f"none of {len(judged)} pairs has an answer of {who}")
    if missing := len(judged) - len(answered):
        work.notice(f"{missing} of {len(judged)} pairs left out: {who} did not answer for both sides")
    return answered


def _answers(oracle: Oracle, questions: Questions, n: int, journal: Journal) -> dict[str, pl.Series]:
    if isinstance(oracle, Scorer):
        scores = questions.scores(oracle, journal)
        margin = scores[:n] - scores[n:]
        return {"margin": pl.Series(margin), "log_odds": pl.Series(oracle.scale * margin)}
    chosen, rejected = np.arange(n), np.arange(n, 2 * n)
    if oracle.antisymmetric:
        p = compare_unordered(oracle, questions, chosen, rejected, journal).p
        order: dict[str, pl.Series] = {}
    else:
        first = np.arange(2 * n) % 2 == 0
        both = compare_ordered(oracle, questions, np.repeat(chosen, 2), np.repeat(rejected, 2), first, journal).p
        p, order = _over_orders(both.reshape(n, 2))
    log_odds = pl.Series(_log_odds(p))
    return {"margin": log_odds, "log_odds": log_odds, **order}


def _over_orders(p: Floats) -> tuple[Floats, dict[str, pl.Series]]:
    """P(chosen beats rejected), the mean over the orders that were answered, and what the order did.

    p: `(n, 2)`, P(chosen beats rejected) with the chosen answer shown first, and second.
    """
    answered = np.isfinite(p)
    mean = np.where(answered, p, 0.0).sum(axis=1) / np.where(answered.any(axis=1), answered.sum(axis=1), np.nan)
    winner = np.where(np.abs(p - 0.5) <= TIE, 0.0, np.sign(p - 0.5))
    both = answered.all(axis=1)
    consistent = np.where(both, winner[:, 0] == winner[:, 1], np.nan)
    won = winner * [1, -1]  # by the answer shown first
    decided = np.where(both, np.count_nonzero(won, axis=1), 0)
    first = np.where(decided > 0, (won > 0).sum(axis=1) / np.maximum(decided, 1), np.nan)
    return mean, {"order_consistency": pl.Series(consistent), "first_position": pl.Series(first)}


def _log_odds(p: Floats) -> Floats:
    clipped = np.clip(p, SURE, 1 - SURE)
    return np.where(np.abs(p - 0.5) <= TIE, 0.0, np.log(clipped / (1 - clipped)))


def _check_labels(p: pl.Series) -> None:
    known = p.drop_nulls()
    wrong = known.filter(~known.is_between(0, 1))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(p)} pairs have a label probability p outside [0, 1], the first is {wrong[0]:g}"
        )


def identical_sides(pairs: Preferences) -> int:
    """How many pairs have two equal texts, between which no oracle can decide."""
    chosen, rejected = (pl.Series(pairs.table.column(side)).str.strip_chars() for side in ("chosen", "rejected"))
    return int((chosen == rejected).sum())
