"""RewardBench: accuracy of a reward model, or of any other oracle, by the benchmark's subsets and sections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tasks.contract import DataError, Workspace
from tasks.declarations import Evaluation, Metric, Resources, StepView
from tasks.judging.oracle_totals import QUERY_TOTALS
from tasks.kinds import Oracle, Preferences, Report

if TYPE_CHECKING:
    import polars as pl

    from tasks.judging.intervals import Interval

reward_bench_resources = Resources(ranks=True)
reward_bench_totals = QUERY_TOTALS
reward_bench_metrics = {
    "eval/reward_bench": Metric("RewardBench\n(95% CI)", ".3f", interval=True, ranks=True, axis="RewardBench score"),
    "eval/reward_bench/chat": Metric("chat", ".3f"),
    "eval/reward_bench/chat_hard": Metric("chat hard", ".3f"),
    "eval/reward_bench/safety": Metric("safety", ".3f"),
    "eval/reward_bench/reasoning": Metric("reasoning", ".3f"),
    "eval/reward_bench/prior_sets": Metric("prior sets", ".3f"),
    "eval/best_of_n_accuracy": Metric("best of n\n(95% CI)", ".3f", interval=True, ranks=True, axis="best of n"),
    "eval/accuracy_by_group": Metric(role="group"),
    "eval/ties": Metric("ties", ".1%", higher_is_better=False),
}  # fmt: skip


def reward_bench_evaluation(step: StepView) -> Evaluation:
    from dataclasses import replace

    from tasks.agree import reward_accuracy_evaluation

    return replace(reward_accuracy_evaluation(step), title="RewardBench accuracy of an oracle")


def reward_bench(
    pairs: Preferences,
    oracle: Oracle,
    work: Workspace,
    *,
    allow_seen: bool = False,
    weights: dict[str, float] | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Report:
    """RewardBench's numbers for an oracle, from a table in the benchmark's layout, whose subsets are the groups.

    A pair is correct where the chosen answer has the higher score, or P(chosen beats rejected) > ½; a tie is wrong.

    eval/accuracy_by_group/<subset>: share of its correct pairs · eval/reward_bench/<section> (chat, chat_hard, safety,
    reasoning, prior_sets): mean over the section's subsets, weighted by the benchmark's counts, of those subsets that
    the table has · eval/reward_bench: mean over these sections, prior sets at half weight · eval/ties: share of pairs
    with equal sides by the oracle, which all count as wrong.

    Where answers are in several pairs, because rows list one chosen and three rejected answers as in RewardBench 2,
    also eval/best_of_n_accuracy/<subset>: share of the prompts whose chosen answer is the best of all; t others that
    are as good make it 1/(1 + t). Of a prompt with several chosen answers (the subset Ties) each must beat every
    rejected one. eval/best_of_n_accuracy: mean over the subsets. It is not the benchmark's score of the subset Ties,
    which mixes this accuracy with margins.

    Intervals are 95%, over prompts, with the subsets as strata. In `per_prompt` the mean over prompts of `reward_bench`
    (and of `best_of_n_accuracy`) is the metric: what a prompt adds to it, times the number of prompts. Pairs without
    an answer are left out with a notice, and prompts of which one is for best of n. Raises DataError if no subset is
    one of RewardBench's and no row lists several answers: `reward_accuracy` reports any other groups.

    Source: RewardBench, Lambert et al., arXiv 2403.13787 (`calculate_scores_per_section` and the leaderboard's mean);
    RewardBench 2, Malik et al., arXiv 2506.01937 (`reroll_and_score_dataset`, `_compute_prompt_stats`).

    Args:
        allow_seen: permit prompts that may have trained the oracle; a notice says so.
        weights: of an oracle with attributes: scores are Σ weight · attribute, others count 0; default: their mean.
        dtype: that an oracle which is a model computes in; auto: float32 on a CPU, bfloat16 on a GPU.
    """
    import polars as pl

    from tasks.judging.bench_sections import section_of, subset_weights
    from tasks.judging.labelled_pairs import judged_pairs, with_answers
    from tasks.judging.oracle_report import report_paid

    if allow_seen:
        work.notice("allow_seen: prompts of these pairs may have trained the oracle")
    judged = judged_pairs(pairs, oracle, weights, dtype, work, "scores.jsonl").rows
    answered = with_answers(judged, work, "the oracle").with_columns(pl.col("group").fill_null(_NONE))
    rows = answered.with_columns(value=(pl.col("log_odds") > 0).cast(pl.Float64))
    subsets = rows["group"].unique(maintain_order=True).to_list()
    known = subset_weights(subsets)
    questions = _best_of_n(judged.with_columns(pl.col("group").fill_null(_NONE)), pairs)
    if not known and questions is None:
        raise DataError(
            f"none of the groups {subsets[:5]} is a subset of RewardBench, and no row lists several answers; name the "
            "subsets in the column `subset` as the benchmark does, or use `reward_accuracy`, which reports any groups"
        )
    if known and (unknown := [s for s in subsets if s not in known]):
        work.notice(f"{len(unknown)} groups are no subsets of RewardBench and count in no section: {unknown[:5]}")
    report_paid(work)
    sections = list(dict.fromkeys(section_of(subset) for subset in known))
    found, by_prompt = [], pl.DataFrame({"prompt_id": rows["prompt_id"].unique(maintain_order=True)})
    if known:
        found.append(_weighted(rows, known).report_row("reward_bench", "share"))
        by_prompt = by_prompt.join(_contributions(rows, known, "reward_bench"), on="prompt_id", how="left")
    for name in sections:
        part = {subset: w for subset, w in known.items() if section_of(subset) == name}
        found.append(_weighted(rows, part).report_row(f"reward_bench/{name}", "share"))
    if questions is not None:
        alike = dict.fromkeys(questions["group"].unique(maintain_order=True).to_list(), 1.0)
        found.append(_weighted(questions, alike).report_row("best_of_n_accuracy", "share"))
        found += _by_subset(questions, "best_of_n_accuracy")
        by_prompt = by_prompt.join(_contributions(questions, alike, "best_of_n_accuracy"), on="prompt_id", how="left")
    found += _by_subset(rows, "accuracy_by_group")
    found += _ties(rows)
    return Report.of(pl.DataFrame(found, infer_schema_length=None)).with_per_prompt(by_prompt)


_NONE = "none"
"""The subset of pairs that have none."""


def _best_of_n(judged: pl.DataFrame, pairs: Preferences) -> pl.DataFrame | None:
    """group, prompt_id and value of each prompt of a subset; None where every answer is in one pair."""
    import polars as pl

    sides = pairs.frame.select("chosen_id", "rejected_id")
    if not any(sides[side].is_duplicated().any() for side in sides.columns):
        return None
    tied = (pl.col("log_odds") == 0).sum()
    value = (
        pl.when(pl.col("log_odds").min() < 0).then(0.0)
        .when(pl.col("chosen_id").n_unique() > 1).then((tied == 0).cast(pl.Float64))
        .otherwise(1 / (1 + tied))
    )  # fmt: skip
    by_question = pl.concat([judged, sides], how="horizontal").group_by("group", "prompt_id", maintain_order=True)
    questions = by_question.agg(value=value, whole=pl.col("log_odds").is_finite().all())
    return questions.filter("whole").drop("whole")


def _weighted(rows: pl.DataFrame, weights: dict[str, float]) -> Interval:
    """Mean over subsets, by their weights, of the rows' values."""
    import polars as pl

    from tasks.judging.intervals import stratified_interval

    rows = rows.filter(pl.col("group").is_in(list(weights)))
    strata = rows["group"].replace_strict({name: i for i, name in enumerate(weights)}, return_dtype=pl.Int64)
    prompts = rows["prompt_id"].rank("dense").cast(pl.Int64) - 1
    return stratified_interval(rows["value"].to_numpy(), prompts.to_numpy(), strata.to_numpy(), [*weights.values()])


def _contributions(rows: pl.DataFrame, weights: dict[str, float], name: str) -> pl.DataFrame:
    """By prompt: what it adds to the weighted mean, times the number of prompts."""
    import polars as pl

    rows = rows.filter(pl.col("group").is_in(list(weights)))
    weight = pl.col("group").replace_strict(weights, return_dtype=pl.Float64) / sum(weights.values())
    added = rows.with_columns(added=pl.col("value") * weight / pl.len().over("group"))
    return added.group_by("prompt_id", maintain_order=True).agg(
        (pl.col("added").sum() * rows["prompt_id"].n_unique()).alias(name)
    )


def _by_subset(rows: pl.DataFrame, name: str) -> list[dict[str, object]]:
    """The mean of each subset, in the table's order."""
    return [
        _weighted(rows, {subset: 1.0}).report_row(f"{name}/{subset}", "share")
        for subset in rows["group"].unique(maintain_order=True).to_list()
    ]


def _ties(rows: pl.DataFrame) -> list[dict[str, object]]:
    import polars as pl

    tied = rows.with_columns(value=(pl.col("log_odds") == 0).cast(pl.Float64), group=pl.lit("all"))
    return [_weighted(tied, {"all": 1.0}).report_row("ties", "share")]
