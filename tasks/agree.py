"""Agreement of a policy or an oracle with preference labels on held-out pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tasks.contract import DataError, Workspace
from tasks.declarations import Evaluation, Metric, Resources, StepView
from tasks.kinds import Logps, Preferences, Report, Scorer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl

    Floats = npt.NDArray[np.float64]


reward_accuracy_resources = Resources(ranks=True)
agreement_metrics = {
    "eval/accuracy": Metric(
        "accuracy\n(95% CI)", ".3f", interval=True, ranks=True, chart=6, axis="accuracy, held-out pairs"
    )
}
reward_accuracy_metrics = {
    **agreement_metrics, "eval/accuracy_change": Metric("change\n(95% CI)", "+.3f", interval=True),
}  # fmt: skip


def agreement_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind

    pairs, policy = step.inputs.get("pairs", ()), behind(step, "logps", "policy")
    return Evaluation(
        "agreement of a policy with held-out pairs", [(table, [policy] if policy else []) for table in pairs], policy,
        step.first("pairs"), behind(step, "ref_logps", "policy"), allow_seen=step.params.get("allow_seen", False),
    )  # fmt: skip


def reward_accuracy_evaluation(step: StepView) -> Evaluation:
    scorers = [*step.inputs.get("oracle", ()), *step.inputs.get("before", ())]
    tables = [(table, scorers) for table in step.inputs.get("pairs", ())]
    return Evaluation(
        "accuracy of a reward model on held-out pairs", tables, step.first("oracle"), step.first("pairs"),
        allow_seen=step.params.get("allow_seen", False),
    )  # fmt: skip


def agreement(
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
    oracle: Scorer,
    work: Workspace,
    before: Scorer | None = None,
    *,
    allow_seen: bool = False,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Report:
    """Accuracy and calibration of a scorer on held-out labelled pairs.

        P = σ(scale·(score(chosen) − score(rejected))),   confidence = max(P, 1 − P)

    eval/accuracy: share of pairs with P > ½; P = ½ counts one half. eval/ece: expected calibration error, the mean over
    pairs of |accuracy − mean confidence| of the pair's bin, ten bins of equal width over confidence ∈ [½, 1]. eval/nll:
    mean −log P, nats (log 2 for P = ½). eval/margin: mean difference of scores. eval/accuracy_ceiling: mean of
    max(p, 1 − p) over pairs with a known label probability p: the upper bound of accuracy on labels sampled from p.
    Intervals are 95%, over prompts: pairs of one prompt are not independent; eval/ece has none (noise biases it
    upwards, by about √(10/n)/3 for a calibrated scorer). `per_prompt` contains the means of each prompt.

    With `before`, another scorer of the same pairs, eval/accuracy_change is the accuracy minus `before`'s, over the
    pairs that both score. It is paired: d = correct − correct before is computed per pair, and its interval is that of
    the mean of d over independent prompts (the same ratio of sums, Student's t). Where both err on the same pairs, d
    is 0, so the interval is narrower than that of a difference of two separate accuracies.

    A journal stores the answers, so a resumed step repeats no query. Totals: `queries`, `unanswered`, of both
    scorers. Pairs with an unscored answer are left out, with a notice. Raises DataError if none is left.

    Source: ECE of Guo et al., arXiv 1706.04599, eq. 5, on the confidence in the winner.

    Args:
        allow_seen: permit prompts that may have trained the scorer; a notice says so.
        dtype: that a scorer which is a model computes in; auto: float32 on a CPU, bfloat16 on a GPU.
    """
    import numpy as np
    import polars as pl
    from scipy.special import expit, log_expit

    from tasks.judging.intervals import Interval

    if allow_seen:
        work.notice("allow_seen: prompts of these pairs may have trained the scorer")
    rows = _scored(_margins(pairs, oracle, dtype, work, "scores.jsonl"), work, "the oracle")
    delta = rows["scaled"].to_numpy()
    rows = rows.with_columns(
        _half_at_zero(pl.col("scaled")).alias("accuracy"), nll=pl.Series(-log_expit(delta)), pairs=pl.lit(1),
        accuracy_ceiling=pl.max_horizontal(pl.col("p"), 1 - pl.col("p")),
    )  # fmt: skip
    units = {"accuracy": "probability", "margin": "score", "nll": "nats"}
    if not rows["p"].null_count():
        units["accuracy_ceiling"] = "probability"
    by_prompt = _by_prompt(rows, list(units))
    estimates = [_estimate(by_prompt, name, unit) for name, unit in units.items()]
    ece = calibration_error(expit(np.abs(delta)), rows["accuracy"].to_numpy())
    estimates.insert(1, Interval(ece, None, None, None, len(by_prompt)).report_row("ece", "probability"))
    if before is not None:
        change = _accuracy_change(rows, _scored(_margins(pairs, before, dtype, work, "before.jsonl"), work, "`before`"))
        estimates.append(_estimate(change, "accuracy_change", "probability"))
        by_prompt = by_prompt.join(change.drop("pairs"), on="prompt_id", how="left", maintain_order="left")
    return Report.of(pl.DataFrame(estimates, infer_schema_length=None)).with_per_prompt(by_prompt)


def _scored(margins: pl.DataFrame, work: Workspace, who: str) -> pl.DataFrame:
    """The pairs whose answers both have a score. Raises DataError if none is left."""
    import polars as pl

    scored = margins.filter(pl.col("scaled").is_finite())
    if scored.is_empty():
        raise DataError(f"none of {len(margins)} pairs has a score for both answers by {who}")
    if missing := len(margins) - len(scored):
        work.notice(f"{missing} of {len(margins)} pairs left out: {who} did not score one of their answers")
    return scored


def _accuracy_change(rows: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """accuracy_change by prompt, over the pairs that both scorers scored."""
    import polars as pl

    others = before.select("pair", was=_half_at_zero(pl.col("scaled")))
    both = rows.join(others, on="pair", how="inner", maintain_order="left")
    if both.is_empty():
        raise DataError("no pair is scored by both the oracle and `before`")
    return _by_prompt(both.with_columns(accuracy_change=pl.col("accuracy") - pl.col("was")), ["accuracy_change"])


def _by_prompt(rows: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    import polars as pl

    return rows.group_by("prompt_id", maintain_order=True).agg(pl.col(*names).mean(), pl.col("pairs").sum())


def _margins(pairs: Preferences, oracle: Scorer, dtype: str, work: Workspace, journal_name: str) -> pl.DataFrame:
    """pair (its number), prompt_id, p, margin and scaled margin of every pair; NaN without a score."""
    import polars as pl

    from tasks.judging.journal import Journal
    from tasks.judging.pairing import Questions

    live = oracle.open(dtype)
    rows = pairs.frame.select("prompt_id", "prompt", "truth", "p", "chosen", "rejected")
    sides = [rows.select("prompt_id", "prompt", "truth", completion=side) for side in ("chosen", "rejected")]
    questions = Questions(pl.concat(sides).to_arrow(compat_level=pl.CompatLevel.oldest()))
    with Journal(work.path / journal_name, work, shared=True) as journal:
        scores = questions.scores(live, journal)
        work.count(queries=journal.queries, unanswered=journal.unanswered)
    margin = pl.Series(scores[: len(rows)] - scores[len(rows) :])
    return rows.select("prompt_id", "p", margin=margin, scaled=live.scale * margin).with_row_index("pair")


def calibration_error(confidence: Floats, correct: Floats, bins: int = 10) -> float:
    """Σ over bins of their share of pairs · |accuracy − mean confidence|; confidence: `(M,)` in [½, 1]."""
    import numpy as np

    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


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

    share = unit == "probability" and name != "accuracy_change"
    mean = interval(by_prompt[name].to_numpy(), by_prompt["pairs"].to_numpy(), share=share)
    return mean.report_row(name, unit)
