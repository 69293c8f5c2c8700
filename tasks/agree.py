"""Agreement of a policy or an oracle with preference labels on held-out pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tasks.contract import DataError, Workspace
from tasks.declarations import Evaluation, Metric, Resources, StepView
from tasks.judging.oracle_totals import QUERY_TOTALS
from tasks.kinds import Logps, Oracle, Preferences, Report

if TYPE_CHECKING:
    import polars as pl


reward_accuracy_resources = Resources(ranks=True)
implicit_accuracy_metrics = {
    "eval/accuracy": Metric(
        "accuracy\n(95% CI)", ".3f", interval=True, ranks=True, chart=6, axis="accuracy, held-out pairs"
    )
}
reward_accuracy_totals = QUERY_TOTALS
reward_accuracy_metrics = {
    **implicit_accuracy_metrics,
    "eval/accuracy_change": Metric("change\n(95% CI)", "+.3f", interval=True),
    "eval/ece": Metric("calibration\nerror", ".3f", higher_is_better=False),
    "eval/order_consistency": Metric("same winner\nin both orders", ".1%"),
    "eval/accuracy_by_group": Metric(role="group"),
}  # fmt: skip


def implicit_accuracy_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind

    pairs, policy = step.inputs.get("pairs", ()), behind(step, "logps", "policy")
    return Evaluation(
        "agreement of a policy with held-out pairs", [(table, [policy] if policy else []) for table in pairs], policy,
        step.first("pairs"), behind(step, "ref_logps", "policy"), allow_seen=step.params.get("allow_seen", False),
    )  # fmt: skip


def reward_accuracy_evaluation(step: StepView) -> Evaluation:
    oracles = [*step.inputs.get("oracle", ()), *step.inputs.get("before", ())]
    tables = [(table, oracles) for table in step.inputs.get("pairs", ())]
    return Evaluation(
        "accuracy of an oracle on held-out pairs", tables, step.first("oracle"), step.first("pairs"),
        allow_seen=step.params.get("allow_seen", False),
    )  # fmt: skip


def implicit_accuracy(
    pairs: Preferences, logps: Logps, ref_logps: Logps, work: Workspace, *, allow_seen: bool = False
) -> Report:
    """Accuracy of the implicit reward log π(y) − log π_ref(y) on held-out pairs.

        delta = [log π(chosen) − log π_ref(chosen)] − [log π(rejected) − log π_ref(rejected)]

    eval/accuracy: share of pairs with delta > 0; delta = 0 counts one half, so a policy has 0.5 against itself.
    eval/margin: mean delta, nats (DPO's beta is not in it). eval/chosen_longer: share of pairs whose chosen answer has
    more tokens (equal: one half), which is the accuracy of preferring length. Intervals are 95%, over prompts: pairs
    of one prompt are not independent. Labels sampled from p bound the accuracy by the mean of
    max(p, 1 − p). Raises DataError if a pair's ids are missing in one of the tables of log-probabilities.

    Source: rewards/accuracies of Rafailov et al., arXiv 2305.18290, section 4 (the implicit reward of equation 5).

    Args:
        allow_seen: permit prompts that may have trained the policy; a notice says so.
    """
    import polars as pl

    if allow_seen:
        work.notice("allow_seen: prompts of this evaluation may have trained the policy")
    rows = pairs.frame.select("prompt_id", "chosen_id", "rejected_id")
    for side in ("chosen", "rejected"):
        for name, table in (("policy", logps), ("ref", ref_logps)):
            rows = _with_logps(rows, table.frame, side, name)
    delta = pl.col("policy_chosen") - pl.col("ref_chosen") - pl.col("policy_rejected") + pl.col("ref_rejected")
    longer = pl.col("policy_chosen_length") - pl.col("policy_rejected_length")
    by_prompt = (
        rows.select("prompt_id", margin=delta, accuracy=_half_at_zero(delta), chosen_longer=_half_at_zero(longer))
        .group_by("prompt_id", maintain_order=True)
        .agg(pl.col("accuracy", "margin", "chosen_longer").mean(), pairs=pl.len())
    )
    units = {"accuracy": "probability", "margin": "nats", "chosen_longer": "probability"}
    report = Report.of(pl.DataFrame([_estimate(by_prompt, name, unit) for name, unit in units.items()]))
    return report.with_per_prompt(by_prompt)


def reward_accuracy(
    pairs: Preferences,
    oracle: Oracle,
    work: Workspace,
    before: Oracle | None = None,
    *,
    allow_seen: bool = False,
    weights: dict[str, float] | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Report:
    """Accuracy and calibration of an oracle on held-out labelled pairs.

        P(chosen beats rejected) = σ(scale·(score(chosen) − score(rejected))),   confidence = max(P, 1 − P)

    An oracle that only compares gives P itself: antisymmetric, in one order; any other is queried in both, and P is
    their mean. Each distinct question is queried once.

    eval/accuracy: share of pairs with P > ½; P = ½ counts one half. eval/accuracy_by_group/…: the same of the pairs of
    each group, where the table names at least two. eval/ece, eval/mce: mean over pairs, and maximum over bins, of
    |accuracy − mean confidence| of ten bins of equal width over confidence ∈ [½, 1]; eval/ace: the mean over bins of
    equal numbers of pairs. eval/nll: mean −log P, nats (log 2 for P = ½). eval/margin: mean difference of scores; of an
    oracle without scores, mean log-odds of P, which lies between 1e-9 and 1 − 1e-9. eval/accuracy_ceiling: mean of
    max(p, 1 − p) over pairs with a known label probability p: the upper bound of accuracy on labels sampled from p. Of
    an oracle with an order: eval/order_consistency, share of pairs with the same winner in both orders, and
    eval/first_position, how often the answer shown first wins, without ties (½ without a bias). Intervals are 95%, over
    prompts: pairs of one prompt are not independent; calibration errors have none (noise biases them upwards, eval/ece
    by about √(10/n)/3 for a calibrated oracle). `per_prompt` contains the means of each prompt, `bins` the accuracy by
    confidence and the histogram of the margins' log-odds.

    With `before`, another oracle on the same pairs, eval/accuracy_change is the accuracy minus `before`'s, over the
    pairs that both answer. It is paired: d = correct − correct before is computed per pair, and its interval is that of
    the mean of d over independent prompts (the same ratio of sums, Student's t). Where both err on the same pairs, d
    is 0, so the interval is narrower than that of a difference of two separate accuracies.

    A journal stores the answers, so a resumed step repeats no query. Totals: `queries`, `unanswered`, of both oracles.
    Pairs without an answer are left out, and pairs with equal sides count one half, each with a notice. Raises
    DataError if no pair has an answer, or for a p outside [0, 1].

    Source: ECE and MCE of Guo et al., arXiv 1706.04599, eqs. 3 and 5, on the confidence in the winner; ACE of Nixon et
    al., arXiv 1904.01685.

    Args:
        allow_seen: permit prompts that may have trained the oracle; a notice says so.
        weights: of an oracle with attributes: scores are Σ weight · attribute, others count 0; default: their mean.
        dtype: that an oracle which is a model computes in; auto: float32 on a CPU, bfloat16 on a GPU.
    """
    import polars as pl

    from tasks.judging.calibration import margin_bins, reliability_bins
    from tasks.judging.labelled_pairs import identical_sides, judged_pairs, with_answers
    from tasks.judging.oracle_report import report_paid

    if allow_seen:
        work.notice("allow_seen: prompts of these pairs may have trained the oracle")
    if equal := identical_sides(pairs):
        work.notice(f"{equal} of {len(pairs)} pairs have equal sides: they count one half for every oracle")
    judged = judged_pairs(pairs, oracle, weights, dtype, work, "scores.jsonl")
    rows = _measured(with_answers(judged.rows, work, "the oracle"))
    by_prompt = _by_prompt(rows, [name for name in _UNITS if name in rows.columns])
    units = {**_UNITS, "margin": "score" if judged.has_scores else "nats"}
    estimates = [_estimate(by_prompt, name, units[name]) for name in _UNITS if name in rows.columns]
    estimates[1:1] = [*_calibration(rows, len(by_prompt)), *_by_group(rows, work)]
    if before is not None:
        others = judged_pairs(pairs, before, None, dtype, work, "before.jsonl").rows
        change = _accuracy_change(rows, with_answers(others, work, "`before`"))
        estimates.append(_estimate(change, "accuracy_change", "probability"))
        by_prompt = by_prompt.join(change.drop("pairs"), on="prompt_id", how="left", maintain_order="left")
    report_paid(work)
    report = Report.of(pl.DataFrame(estimates, infer_schema_length=None)).with_per_prompt(by_prompt)
    return report.with_bins([*reliability_bins(rows), *margin_bins(rows["log_odds"])])


_UNITS = {
    "accuracy": "probability", "margin": "score", "nll": "nats", "accuracy_ceiling": "probability",
    "order_consistency": "share", "first_position": "share",
}  # fmt: skip
"""Quantities of a pair that `reward_accuracy` averages, with their units."""
MOST_GROUPS = 40
"""Groups whose accuracy is reported, the largest ones."""


def _measured(answered: pl.DataFrame) -> pl.DataFrame:
    """The pairs with their accuracy, confidence and nll, and the ceiling where every label probability is known."""
    import numpy as np
    import polars as pl
    from scipy.special import expit, log_expit

    log_odds = answered["log_odds"].to_numpy()
    rows = answered.with_columns(
        _half_at_zero(pl.col("log_odds")).alias("accuracy"), nll=pl.Series(-log_expit(log_odds)), pairs=pl.lit(1),
        confidence=pl.Series(expit(np.abs(log_odds))),
        accuracy_ceiling=pl.max_horizontal(pl.col("p"), 1 - pl.col("p")),
    )  # fmt: skip
    return rows.drop("accuracy_ceiling") if rows["p"].null_count() else rows


def _calibration(rows: pl.DataFrame, prompts: int) -> list[dict[str, object]]:
    from tasks.judging.calibration import calibration_errors
    from tasks.judging.intervals import Interval

    errors = calibration_errors(rows["confidence"].to_numpy(), rows["accuracy"].to_numpy())._asdict()
    return [
        Interval(value, None, None, None, prompts).report_row(name, "probability") for name, value in errors.items()
    ]


def _by_group(rows: pl.DataFrame, work: Workspace) -> list[dict[str, object]]:
    """Accuracy of each group, the largest first; none where fewer than two are named."""
    import polars as pl

    sizes = rows.drop_nulls("group").group_by("group", maintain_order=True).len().sort("len", descending=True)
    if len(sizes) < 2:
        return []
    if len(sizes) > MOST_GROUPS:
        work.notice(f"the pairs have {len(sizes)} groups; the accuracy of the {MOST_GROUPS} largest is reported")
    of_group = {name: rows.filter(pl.col("group") == name) for name in sizes["group"].head(MOST_GROUPS)}
    return [
        {
            **_estimate(_by_prompt(part, ["accuracy"]), "accuracy", "probability"),
            "name": f"eval/accuracy_by_group/{name}",
        }
        for name, part in of_group.items()
    ]


def _accuracy_change(rows: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """accuracy_change by prompt, over the pairs that both oracles answered."""
    import polars as pl

    others = before.select("pair", was=_half_at_zero(pl.col("log_odds")))
    both = rows.join(others, on="pair", how="inner", maintain_order="left")
    if both.is_empty():
        raise DataError("no pair is answered by both the oracle and `before`")
    return _by_prompt(both.with_columns(accuracy_change=pl.col("accuracy") - pl.col("was")), ["accuracy_change"])


def _by_prompt(rows: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """Means of each prompt's pairs, without those that are NaN."""
    import polars as pl

    means = pl.col(*names).fill_nan(None).mean()
    return rows.group_by("prompt_id", maintain_order=True).agg(means, pl.col("pairs").sum())


def _with_logps(rows: pl.DataFrame, logps: pl.DataFrame, side: str, name: str) -> pl.DataFrame:
    """`rows` with the columns `{name}_{side}` and `{name}_{side}_length`, joined by prompt and answer."""
    import polars as pl

    columns = logps.unique(["prompt_id", "completion_id"]).select(
        "prompt_id",
        pl.col("completion_id").alias(f"{side}_id"),
        pl.col("logps").alias(f"{name}_{side}"),
        pl.col("lengths").cast(pl.Int64).alias(f"{name}_{side}_length"),
    )
    joined = rows.join(columns, on=["prompt_id", f"{side}_id"], how="left", maintain_order="left")
    missing = joined[f"{name}_{side}"].null_count()
    if missing:
        raise DataError(f"{missing} {side} answers of {len(rows)} pairs have no log-probability under the {name}")
    return joined


def _half_at_zero(expression: pl.Expr) -> pl.Expr:
    """1 above zero, 0 below, one half at zero."""
    return (expression.sign() + 1) / 2


def _estimate(by_prompt: pl.DataFrame, name: str, unit: str) -> dict[str, object]:
    """Mean over pairs with its interval over prompts: a ratio of sums over independent prompts."""
    from tasks.judging.intervals import interval

    known = by_prompt.drop_nulls(name)
    share = unit in ("probability", "share") and name != "accuracy_change"
    mean = interval(known[name].to_numpy(), known["pairs"].to_numpy(), share=share)
    return mean.report_row(name, unit)
