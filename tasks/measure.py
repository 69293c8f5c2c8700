"""From answers and win probabilities to a Report: each metric with its interval, and its values by prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from tasks.contract import Bounds, DataError, Workspace
from tasks.declarations import Evaluation, Metric, StepView
from tasks.kinds import Completions, Logps, Preferences, Report, Scores, WinProbs

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl


measure_metrics = {
    "eval/win_rate": Metric(
        "win rate vs. base\n(95% CI)", ".3f", interval=True, ranks=True, role="win_rate", chart=1,
        figure="Win rate against the base policy", axis="P(policy beats base), held-out prompts",
    ),
    "eval/gold": Metric("gold", role="score", baseline="eval/baseline_gold", chart=2, axis="mean gold score"),
    "eval/proxy": Metric("proxy", role="proxy", baseline="eval/baseline_proxy", chart=4),
    "eval/kl": Metric("KL\n(nats)", role="distance", higher_is_better=False, chart=3),
    "eval/length": Metric("length\n(tokens)", ".1f", chart=5),
    "eval/finished": Metric("finished", ".1%", compared=False),
}  # fmt: skip


def measure_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind, measured_tables, settings_of

    answers, others, questions = (step.first(port) for port in ("completions", "others", "win_probs"))
    return Evaluation(
        "win rate of answers", measured_tables(step.inputs.get("completions", ())),
        behind(step, "completions", "policy"),
        behind(step, "completions", "prompts"), behind(step, "others", "policy"), behind(step, "win_probs", "oracle"),
        (answers, others),
        settings={**settings_of(questions), **settings_of(others, " (baseline)"), **settings_of(answers)},
        judgements=questions, scores=[*step.inputs.get("baseline_scores", ()), *step.inputs.get("scores", ())],
        allow_seen=step.params.get("allow_seen", False),
    )  # fmt: skip


def measure(
    win_probs: WinProbs,
    completions: Completions,
    others: Completions,
    work: Workspace,
    scores: Scores | None = None,
    baseline_scores: Scores | None = None,
    logps: Logps | None = None,
    proxy_scores: Scores | None = None,
    baseline_proxy_scores: Scores | None = None,
    *,
    temperature: Annotated[float, Bounds(min=0)] = 1.0,
    allow_seen: bool = False,
) -> Report:
    """Compare a policy's answers (`completions`) with a baseline's (`others`).

    Each quantity is first averaged within a prompt (P over its K × K pairs), then over prompts. Intervals are 95%, over
    prompts: Wilson's for rates and shares, so that they stay in [0, 1], else Student's t, mean ± t(0.975, n − 1)·sd/√n.
    `per_prompt` contains the means of each prompt, named as the metrics without `eval/` (win_rate, gold, kl, …).

    eval/win_rate (P that the policy's answer is the better one; its standard error is eval/win_rate_se) ·
    eval/wins, eval/ties, eval/losses (shares of pairs with P above, at, below ½) · eval/unanswered (share of questions)
    · eval/order_consistency (share of pairs queried in both orders that have the same winner) · eval/gold and
    eval/baseline_gold (mean score) · eval/proxy and eval/baseline_proxy (mean score by the oracle that trained, in its
    own units: where it rises while gold falls, the policy is over-optimised) · eval/kl (nats per answer,
    Σ token_logps − the baseline's logps: the estimator k1 of KL(policy ‖ baseline), exact in the mean for answers drawn
    at temperature 1) · eval/length and eval/baseline_length (tokens) · eval/finished (share of answers that ended by
    themselves).

    Raises DataError if the tables' ids do not match.

    Args:
        temperature: sampling temperature of the answers; affects only the notice on KL.
        allow_seen: permit prompts that may have trained the policy; a notice says so.
    """
    from tasks.judging import measuring as m

    answers, baseline = m.measured_answers(completions), m.measured_answers(others)
    metrics = m.win_rate_rows(win_probs, answers, baseline)
    metrics |= m.length_rows(answers, "") | m.length_rows(baseline, "baseline_")
    score_tables = {
        "gold": (scores, answers), "baseline_gold": (baseline_scores, baseline),
        "proxy": (proxy_scores, answers), "baseline_proxy": (baseline_proxy_scores, baseline),
    }  # fmt: skip
    for name, (table, owners) in score_tables.items():
        if table is not None:
            metrics[name] = m.per_prompt(m.score_rows_of(owners, table, name), "score")
    if logps is not None:
        metrics["kl"] = m.per_prompt(m.log_ratios(answers, logps), "kl")
        if temperature != 1:
            work.notice(f"the answers were sampled at temperature {temperature:g}: eval/kl is biased, as it assumes 1")
    if allow_seen:
        work.notice("allow_seen: prompts of this evaluation may have trained the policy")
    _report_missing(metrics, len(answers.prompts), work)
    return Report.of(m.report_rows(metrics)).with_per_prompt(m.per_prompt_table(answers.prompts, metrics))


mean_uncertainty_metrics = {
    "eval/uncertainty": Metric("uncertainty\n(95% CI)", ".3f", interval=True, higher_is_better=False, of_run=True),
    "eval/uncertainty_selected": Metric("of selected\npairs", ".3f", higher_is_better=False, of_run=True),
}  # fmt: skip


def mean_uncertainty_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind

    return Evaluation(
        "uncertainty of an oracle", [], data=behind(step, "win_probs", "completions"),
        oracle=behind(step, "win_probs", "oracle"), judgements=step.first("win_probs"),
    )  # fmt: skip


def mean_uncertainty(win_probs: WinProbs, work: Workspace, pairs: Preferences | None = None) -> Report:
    """How uncertain an oracle was of the pairs that it compared: of an exploration, by round, it should fall.

    eval/uncertainty: mean over the pairs of a prompt, then over prompts, in the oracle's own units (the deviation of P
    over an ensemble's members, or a distance of features) · eval/uncertainty_selected: the same over `pairs`, which a
    rule kept of them. Intervals are 95%, over prompts. Raises DataError where no pair has an uncertainty, or a pair
    was not compared.
    """
    import polars as pl

    from tasks.judging import measuring as m

    questions = win_probs.frame.select("prompt_id", "a_id", "b_id", "uncertainty")
    known = questions.filter(pl.col("uncertainty").is_not_null())
    if known.is_empty():
        raise DataError(f"none of {len(questions)} comparisons has an uncertainty: the oracle must be an `ensemble`")
    if missing := len(questions) - len(known):
        work.notice(f"{missing} of {len(questions)} comparisons have no uncertainty and are left out")
    metrics = {"uncertainty": m.per_prompt(known, "uncertainty")}
    if pairs is not None:
        kept = pairs.frame.select("prompt_id", a_id=pl.min_horizontal("chosen_id", "rejected_id"),
                                  b_id=pl.max_horizontal("chosen_id", "rejected_id"))  # fmt: skip
        ordered = known.with_columns(
            a_id=pl.min_horizontal("a_id", "b_id"), b_id=pl.max_horizontal("a_id", "b_id")
        ).unique(["a_id", "b_id"], keep="first", maintain_order=True)
        found = kept.join(ordered, on=["prompt_id", "a_id", "b_id"], how="inner", maintain_order="left")
        if len(found) < len(kept):
            raise DataError(f"{len(kept) - len(found)} of {len(kept)} pairs are not among the comparisons")
        metrics["uncertainty_selected"] = m.per_prompt(found, "uncertainty")
    prompts = known["prompt_id"].unique(maintain_order=True).to_list()
    return Report.of(m.report_rows(metrics)).with_per_prompt(m.per_prompt_table(prompts, metrics))


def _report_missing(metrics: Mapping[str, pl.DataFrame], prompts: int, work: Workspace) -> None:
    for name, values in metrics.items():
        missing = prompts - values["value"].is_not_null().sum()
        if missing and name in ("win_rate", "gold", "baseline_gold", "proxy", "baseline_proxy"):
            work.notice(f"eval/{name}: {missing} of {prompts} prompts have no answer from the oracle and are left out")
