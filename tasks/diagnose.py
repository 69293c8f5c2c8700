"""Diagnoses of answers and of what trains on them: correlations, density ratios, targets of SPPO, a probe of SFT."""

from __future__ import annotations

from tasks.contract import DataError, Workspace
from tasks.declarations import Binned, Evaluation, Metric, StepView
from tasks.kinds import Completions, Logps, Report, Scores, WinRates

correlations_metrics = {
    "eval/correlation": Metric(role="correlation"),
    "eval/correlation_within": Metric(role="correlation_within"),
}
correlations_bins = {
    "length_correlation": Binned(
        "Length and score among the answers to a prompt", "Spearman's ρ of a prompt: score and length of its answers",
        of="prompts", reference=0.0, metric="eval/length_correlation",
    )
}  # fmt: skip


def correlations_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind, settings_of

    answers = behind(step, "scores", "completions")
    return Evaluation(
        "correlations of scores", [], data=behind(step, "scores", "completions", "prompts"),
        oracle=behind(step, "scores", "oracle"), sides=(answers, None), settings=settings_of(answers),
        scores=[*step.inputs.get("scores", ())],
    )  # fmt: skip


def correlations(scores: Scores, *, lengths: bool = True) -> Report:
    """Spearman correlations of several scores of the same answers, with each other and with the answers' length.

    The quantities are the table's attributes (`load_scores` of HelpSteer-like data; `join_scores` of several oracles'
    scores), or its score where it has none. Over all answers, easy prompts, which all scorers like, make correlations
    that no policy can use: what an oracle teaches is among the answers to one prompt.

    eval/correlation/A/B: ρ over all answers; its interval leaves out groups of prompts in turn (jackknife) ·
    eval/correlation_within/A/B: the mean over prompts of ρ among the answers to one prompt; prompts where one of both
    is the same for all answers do not count · eval/length_correlation/A: the latter of A with the length in tokens
    (characters where a table has no tokens): an oracle with a positive one teaches length. Intervals are 95%, over
    prompts. `per_prompt` contains the values within prompts, `bins` their distribution for the length. Raises DataError
    where there are fewer than two quantities.

    Source: Spearman (1904); length and reward within a prompt as Singhal et al., arXiv 2310.03716, section 3.

    Args:
        lengths: the answers' length is one of the quantities.
    """
    import numpy as np
    import polars as pl

    from tasks.judging.correlations import LENGTH, correlations_of, histogram, quantities_of

    quantities = quantities_of(scores, lengths=lengths)
    made = [*correlations_of(quantities)]
    rows = [one.over_all.report_row(f"correlation/{one.a}/{one.b}", "correlation") for one in made]
    rows += [one.within.report_row(f"correlation_within/{one.a}/{one.b}", "correlation") for one in made]
    of_length = [one for one in made if one.b == LENGTH] if lengths else []
    rows += [one.within.report_row(f"length_correlation/{one.a}", "correlation") for one in of_length]
    table = pl.DataFrame({
        "prompt_id": [*dict.fromkeys(quantities.prompts)],
        **{f"correlation_within/{one.a}/{one.b}": one.of_prompts for one in made},
    }).fill_nan(None)  # fmt: skip
    edges = np.linspace(-1.1, 1.1, 12)  # bins around −1, −0.8, … 1: of four answers, ρ has no other values
    report = Report.of(pl.DataFrame(rows, infer_schema_length=None)).with_per_prompt(table)
    return report.with_bins(
        [b for one in of_length for b in histogram(f"length_correlation/{one.a}", one.of_prompts, edges)]
    )


density_ratio_metrics = {
    "eval/log_ratio_per_token": Metric("log-ratio\nper token", "+.3f", higher_is_better=False),
    "eval/log_ratio_slope": Metric("of a further\ntoken", "+.3f", higher_is_better=False),
}
density_ratio_bins = {
    "log_ratio_by_length": Binned(
        "Density ratio by length", "length of the answer, tokens", value="log π/π_ref, nats per answer", reference=0.0
    )
}


def density_ratio_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind, measured_tables, settings_of

    answers = step.first("completions")
    return Evaluation(
        "density ratio of answers", measured_tables(step.inputs.get("completions", ())),
        behind(step, "completions", "policy"), behind(step, "completions", "prompts"),
        behind(step, "ref_logps", "policy"), sides=(answers, None), settings=settings_of(answers),
        allow_seen=step.params.get("allow_seen", False),
    )  # fmt: skip


def density_ratio(completions: Completions, ref_logps: Logps, work: Workspace, *, allow_seen: bool = False) -> Report:
    """How the density ratio of a policy and its reference depends on the length of the policy's own answers.

        log π(y | x) − log π_ref(y | x), nats, of answers y that π sampled

    A ratio that grows with the length says that the policy pays for its distance by the token: a KL penalty per answer
    then prices long answers. eval/log_ratio: its mean over prompts, the estimate k1 of KL(π ‖ π_ref) ·
    eval/log_ratio_per_token: Σ log-ratios / Σ tokens · eval/log_ratio_slope: slope of the least-squares line over all
    answers, nats per token; its interval leaves out one prompt at a time. `per_prompt` contains log_ratio and length,
    `bins` the mean ratio of up to ten equally large groups of lengths. Intervals are 95%, over prompts. Raises
    DataError if ids or lengths of both tables do not match.

    Args:
        allow_seen: permit prompts that may have trained the policy; a notice says so.
    """
    import polars as pl

    from tasks.judging import measuring as m
    from tasks.judging.intervals import interval
    from tasks.judging.ratios import length_bins, slope_of

    if allow_seen:
        work.notice("allow_seen: prompts of this evaluation may have trained the policy")
    answers = m.measured_answers(completions)
    rows = answers.rows.select("prompt_id", "length", log_ratio=m.log_ratios(answers, ref_logps)["kl"])
    grouped = rows.group_by("prompt_id", maintain_order=True)
    of_prompt = grouped.agg(pl.col("log_ratio", "length").mean(), tokens=pl.col("length").sum())
    mean = interval(of_prompt["log_ratio"].to_numpy(), share=False)
    per_token = interval(
        (of_prompt["log_ratio"] / of_prompt["length"]).to_numpy(), of_prompt["tokens"].to_numpy(), share=False
    )
    estimates = [
        mean.report_row("log_ratio", "nats"), per_token.report_row("log_ratio_per_token", "nats per token"),
        slope_of(rows).report_row("log_ratio_slope", "nats per token"),
    ]  # fmt: skip
    report = Report.of(pl.DataFrame(estimates, infer_schema_length=None)).with_per_prompt(of_prompt.drop("tokens"))
    return report.with_bins([*length_bins("log_ratio_by_length", rows)])


target_spread_metrics = {
    "eval/target_spread": Metric("best − worst\nwin rate", ".3f", interval=True, of_run=True),
    "eval/target_distance": Metric("from ½", ".3f"),
}
target_spread_bins = {
    "target_win_rates": Binned(
        "Win rates that a policy trains on", "win rate of an answer against the others to its prompt", reference=0.5
    )
}


def target_spread_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind

    return Evaluation(
        "win rates of answers", [], data=behind(step, "targets", "completions", "prompts"),
        oracle=behind(step, "targets", "win_probs", "oracle"), judgements=behind(step, "targets", "win_probs"),
    )  # fmt: skip


def target_spread(targets: WinRates) -> Report:
    """The distribution of the win rates that SPPO trains on: with answers that are all alike nothing is left to learn.

    SPPO moves log π/π_ref of an answer to η·(win rate − ½), so a win rate of ½ asks for no change.
    eval/target_spread: mean over prompts of the highest minus the lowest win rate of a prompt's answers ·
    eval/target_distance: mean over prompts of |win rate − ½|; both in [0, 1], with 95% intervals over prompts and the
    values by prompt in `per_prompt`. `bins` is the histogram of all answers' win rates, which count as those of the
    table: where an answer is its own opponent, they are closer to ½. Raises DataError for a table without rows.

    Source: Wu et al., arXiv 2405.00675, eq. 4.5.
    """
    import numpy as np
    import polars as pl

    from tasks.judging.correlations import histogram
    from tasks.judging.intervals import interval

    rows = targets.frame.select("prompt_id", "win_rate")
    if rows.is_empty():
        raise DataError("the table of win rates has no rows")
    rate = pl.col("win_rate")
    by_prompt = rows.group_by("prompt_id", maintain_order=True).agg(
        target_spread=rate.max() - rate.min(), target_distance=(rate - 0.5).abs().mean()
    )
    estimates = [
        interval(by_prompt[name].to_numpy(), share=True).report_row(name, "probability")
        for name in ("target_spread", "target_distance")
    ]
    report = Report.of(pl.DataFrame(estimates, infer_schema_length=None)).with_per_prompt(by_prompt)
    return report.with_bins([*histogram("target_win_rates", rows["win_rate"].to_numpy(), np.linspace(0, 1, 21))])
