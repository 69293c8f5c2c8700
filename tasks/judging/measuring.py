"""Means within prompts, then over prompts. A measured quantity is a frame of prompt_id and value (null: unknown)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from tasks.contract import DataError
from tasks.judging.intervals import interval
from tasks.judging.oriented import TIE
from tasks.kinds import Completions, Logps, Scores, WinProbs

UNITS = {
    "win_rate": "probability", "gold": "score", "baseline_gold": "score", "proxy": "score", "baseline_proxy": "score",
    "kl": "nats", "length": "tokens", "baseline_length": "tokens", "exploitability": "probability",
    "exploitability_last": "probability", "exploitability_mixture": "probability", "beats": "probability",
    "uncertainty": "deviation", "uncertainty_selected": "deviation", "gold_gain": "score", "proxy_gain": "score",
}  # fmt: skip
"""Unit of each metric, by its name up to the first slash; all others are shares."""
_GAPS = ("exploitability", "exploitability_last", "exploitability_mixture")
"""In [−1, 1], unlike other probabilities."""


class MeasuredAnswers(NamedTuple):
    """The answers of one side, and what the measurements need of them."""

    rows: pl.DataFrame
    """prompt_id, completion_id, length, policy_logps, finished"""
    prompts: list[str]
    """In order of their first answer."""


def measured_answers(completions: Completions) -> MeasuredAnswers:
    """The answers of one side. Raises DataError if there are none, or a draw occurs twice."""
    columns = ["prompt_id", "completion_id", "token_logps", "finish_reason"]
    frame = pl.DataFrame(pl.from_arrow(completions.table.select(columns)))
    if frame.is_empty() or frame["completion_id"].n_unique() != len(frame):
        raise DataError("the table of answers is empty or contains a draw twice")
    rows = frame.select(
        "prompt_id", "completion_id",
        length=pl.col("token_logps").list.len().cast(pl.Float64),
        policy_logps=pl.col("token_logps").cast(pl.List(pl.Float64)).list.sum(),
        finished=(pl.col("finish_reason") == "stop").cast(pl.Float64),
    )  # fmt: skip
    return MeasuredAnswers(rows, rows["prompt_id"].unique(maintain_order=True).to_list())


def per_prompt(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    """Mean of a column over each prompt's rows, ignoring nulls; null if all are. Order and bits are deterministic."""
    grouped = rows.group_by("prompt_id", maintain_order=True).agg(pl.col(column).drop_nulls())
    values = [float(np.mean(v)) if len(v) else None for v in grouped[column].to_list()]
    return pl.DataFrame({"prompt_id": grouped["prompt_id"], "value": pl.Series(values, dtype=pl.Float64)})


def length_rows(side: MeasuredAnswers, prefix: str) -> dict[str, pl.DataFrame]:
    """Lengths of a side's answers, and for the policy the share that ended by itself."""
    length = {f"{prefix}length": per_prompt(side.rows, "length")}
    return length if prefix else length | {"finished": per_prompt(side.rows, "finished")}


def win_rate_rows(win_probs: WinProbs, answers: MeasuredAnswers, baseline: MeasuredAnswers) -> dict[str, pl.DataFrame]:
    """Win rate and related shares by prompt. Raises DataError if a question is not an answer against a baseline's."""
    questions = win_probs.frame
    for ids, side, what in (("a_id", answers, "answers"), ("b_id", baseline, "baseline's answers")):
        unknown = questions.select("prompt_id", ids).join(
            side.rows, left_on=["prompt_id", ids], right_on=["prompt_id", "completion_id"], how="anti"
        )
        if len(unknown):
            raise DataError(f"{len(unknown)} of {len(questions)} questions have an {ids} that is not one of the {what}")
    pairs = questions.group_by("prompt_id", "a_id", "b_id", maintain_order=True).agg(
        p=pl.col("p").mean(), orders=pl.col("p").drop_nulls().len(), agree=_winner("p").drop_nulls().n_unique() == 1
    )
    won = _winner("p")
    pairs = pairs.with_columns(
        wins=(won == 1).cast(pl.Float64), ties=(won == 0).cast(pl.Float64), losses=(won == -1).cast(pl.Float64)
    )
    metrics = {"win_rate": per_prompt(pairs, "p")}
    metrics |= {name: per_prompt(pairs, name) for name in ("wins", "ties", "losses")}
    unanswered = questions.select("prompt_id", unanswered=pl.col("p").is_null().cast(pl.Float64))
    metrics["unanswered"] = per_prompt(unanswered, "unanswered")
    both_orders = pairs.filter(pl.col("orders") > 1).select("prompt_id", agree=pl.col("agree").cast(pl.Float64))
    return metrics | ({"order_consistency": per_prompt(both_orders, "agree")} if len(both_orders) else {})


def _winner(p: str) -> pl.Expr:
    """1: a wins, −1: b wins, 0: a tie."""
    lead = pl.col(p) - 0.5
    return pl.when(lead.abs() <= TIE).then(0).otherwise(lead.sign().cast(pl.Int32))


def score_rows_of(side: MeasuredAnswers, scores: Scores, what: str) -> pl.DataFrame:
    """Scores of a side's answers. Raises DataError if they are of other answers."""
    table = pl.DataFrame(pl.from_arrow(scores.table.select(["completion_id", "score"])))
    return _with_values(side, table, f"the scores of eval/{what}")


def log_ratios(side: MeasuredAnswers, logps: Logps) -> pl.DataFrame:
    """log π(y) − log π_baseline(y) of each answer, nats, as `kl`. Raises DataError if ids or lengths do not match."""
    table = pl.DataFrame(pl.from_arrow(logps.table.select(["completion_id", "logps", "lengths"])))
    rows = _with_values(side, table, "the baseline's log-probabilities")
    other = rows.filter(pl.col("lengths") != pl.col("length"))
    if len(other):
        raise DataError(f"{len(other)} answers have another number of tokens under the baseline: their KL is undefined")
    return rows.select("prompt_id", kl=pl.col("policy_logps") - pl.col("logps"))


def _with_values(side: MeasuredAnswers, values: pl.DataFrame, what: str) -> pl.DataFrame:
    rows = side.rows.join(values, on="completion_id", how="inner", maintain_order="left")
    if not len(rows) == len(values) == len(side.rows):
        raise DataError(f"{what} have {len(values)} rows, of which {len(rows)} belong to the {len(side.rows)} answers")
    return rows


def report_rows(metrics: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """A Report's rows: estimate, 95% interval over prompts (null below two prompts; see `intervals`)."""
    rows: list[dict[str, Any]] = []
    for name, values in metrics.items():
        metric = name.split("/")[0]
        unit = UNITS.get(metric, "share")
        share = unit in ("share", "probability") and metric not in _GAPS
        mean = interval(values["value"].drop_nulls().to_numpy(), share=share)
        rows.append(mean.report_row(name, unit))
        if name == "win_rate":
            rows.append(mean._replace(value=mean.error, low=None, high=None).report_row("win_rate_se", unit))
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(("value", "ci_low", "ci_high"), pl.Float64))


def group_rows(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows `eval/group/<group>` of a Report: the mean of `value` over each `group`'s prompts, in order of names."""
    found = []
    for (group,), of_group in sorted(rows.group_by("group")):
        values = of_group["value"].to_numpy()
        share = bool((values >= 0).all() and (values <= 1).all())
        found.append(interval(values, share=share).report_row(f"group/{group}", "share"))
    return found


def per_prompt_table(prompts: list[str], metrics: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """One row per prompt, one column per quantity."""
    table = pl.DataFrame({"prompt_id": prompts}, schema={"prompt_id": pl.String})
    for name, values in metrics.items():
        table = table.join(values.rename({"value": name}), on="prompt_id", how="left", maintain_order="left")
    return table
