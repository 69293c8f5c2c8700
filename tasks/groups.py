"""Groups of prompts: what a Report measures of each, and weights that move training towards the worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from tasks.contract import Bounds, DataError, Workspace
from tasks.declarations import Evaluation, Metric, StepView
from tasks.kinds import AnyTable, Prompts, Report
from tasks.measure import measure_metrics

if TYPE_CHECKING:
    import polars as pl


by_group_metrics = {
    **measure_metrics,
    "eval/worst_group": Metric("worst group\n(95% CI)", ".3f", interval=True, figure="Worst group", axis="worst group"),
}
group_weights_metrics = {"eval/group_weight": Metric()}


def by_group_evaluation(step: StepView) -> Evaluation | None:
    """That of the Report whose prompts are grouped."""
    from tasks.agree import reward_accuracy_evaluation
    from tasks.measure import measure_evaluation

    inner = step.first("report")
    known = {"measure": measure_evaluation, "reward_accuracy": reward_accuracy_evaluation}
    return known[inner.task](inner) if inner is not None and inner.task in known else None


def by_group(report: Report, prompts: Prompts, work: Workspace, *, quantity: str = "win_rate") -> Report:
    """A Report with one of its metrics by group as well, and the worst group's.

    eval/group/<group>: mean over the prompts of the group, by the column `group` · eval/worst_group: the lowest of
    them, with that group's interval. The lowest of several estimates lies below the lowest of what they estimate, the
    more so the fewer prompts a group has. Intervals are 95%, over prompts. All rows of the given Report stay.

    Raises DataError where the Report has no such metric, none of its prompts is among `prompts`, or none has a group.
    Prompts without a group are the group `none`.

    Args:
        quantity: name of a metric by prompt, without `eval/`; higher is better.
    """
    import polars as pl

    from tasks.judging.measuring import group_rows

    values = _values_by_prompt(report, quantity)
    groups = _groups(prompts.frame)
    rows = values.join(groups, on="prompt_id", how="inner", maintain_order="left")
    if rows.is_empty():
        raise DataError(f"none of the {len(values)} prompts of `report` is among the {len(groups)} of `prompts`")
    if left_out := len(values) - len(rows):
        work.notice(f"{left_out} of {len(values)} prompts of `report` are not among `prompts`, so they have no group")
    found = group_rows(rows)
    worst = min(found, key=lambda row: (row["value"], row["name"]))
    worst = {**worst, "name": "eval/worst_group"}
    work.notice(f"the worst of {len(found)} groups is {_name(found, worst['value'])}")
    table = pl.DataFrame([*report.table.to_pylist(), *found, worst], infer_schema_length=None)
    done = Report.of(table)
    return done if report.per_prompt is None else done.with_per_prompt(report.per_prompt)


def _name(found: list[dict[str, object]], value: object) -> str:
    return next(str(row["name"]).removeprefix("eval/group/") for row in found if row["value"] == value)


def group_weights(
    report: Report, work: Workspace, before: Report | None = None, *, step: Annotated[float, Bounds(min=0)] = 1.0
) -> Report:
    """Each group's weight α after a round, which grows where the policy does worst.

        α_g ∝ α_g·exp(step·(1 − x_g)),   Σ_g α_g = 1

    x_g is the group's mean in [0, 1] (`by_group`), so 1 − x_g is its loss. This is exponentiated-gradient ascent on
    Σ α_g·loss_g, the outer player of min over policies, max over groups. Without `before` all weights start equal.

    eval/group_weight/<group>: α. Raises DataError where a group's mean is outside [0, 1], or `before` has other groups.

    Source: Ramesh et al., group robust preference optimization, arXiv 2405.20304, Algorithm 1; the loss is taken once a
    round over all prompts of a group, instead of from one sampled row.

    Args:
        step: how fast weights move; 0: never.
    """
    import numpy as np
    import polars as pl

    means = _named(report, "eval/group/")
    if not means:
        raise DataError("`report` has no rows `eval/group/…`: it must come from `by_group`")
    wrong = {group: x for group, x in means.items() if not 0 <= x <= 1}
    if wrong:
        raise DataError(f"a group's mean must be in [0, 1], and these are not: {wrong}")
    old = _named(before, "eval/group_weight/") if before is not None else dict.fromkeys(means, 1.0)
    if old.keys() != means.keys():
        raise DataError(f"`before` has weights of {sorted(old)}, and `report` has the groups {sorted(means)}")
    logs = np.array([np.log(old[group]) + step * (1 - means[group]) for group in means])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    shown = ", ".join(f"{group} {weight:.3f}" for group, weight in zip(means, weights, strict=True))
    work.notice(f"group weights: {shown}")
    counts = {row["name"]: row["n"] for row in report.table.to_pylist()}
    return Report.of(pl.DataFrame([
        {"name": f"eval/group_weight/{group}", "value": float(weight), "ci_low": None, "ci_high": None,
         "n": counts[f"eval/group/{group}"], "unit": "share"}
        for group, weight in zip(means, weights, strict=True)
    ], schema_overrides={"ci_low": pl.Float64, "ci_high": pl.Float64}))  # fmt: skip


def weigh_groups(table: AnyTable, weights: Report) -> AnyTable:
    """A table whose rows have weights that add up to each group's share α of all: Σ over its rows = N·α_g.

    With the mean over rows as the loss, it is Σ_g α_g·(mean loss of the group). A row's own weight stays a factor
    within its group. Raises DataError where a row's group has no weight, or a group with a weight no row.

    Args:
        table: rows with the columns `group` and `weight`.
        weights: rows `eval/group_weight/…`, from `group_weights`.
    """
    import polars as pl

    shares = _named(weights, "eval/group_weight/")
    frame = table.frame
    if "group" not in frame.columns or "weight" not in frame.columns:
        raise DataError(f"a {type(table).__name__} has no columns `group` and `weight` that a training reads")
    rows = frame.with_columns(pl.col("group").fill_null(_NONE), pl.col("weight").fill_null(1.0))
    there = set(rows["group"].unique())
    if there != shares.keys():
        raise DataError(f"the rows have the groups {sorted(there)}, and there are weights of {sorted(shares)}")
    factor = pl.col("group").replace_strict(shares, return_dtype=pl.Float64) / pl.col("weight").sum().over("group")
    weight = pl.col("weight") * factor * len(rows)
    return type(table).of(frame.with_columns(weight=rows.select(weight).to_series()).to_arrow(), table.metadata)


_NONE = "none"
"""The group of prompts that have none."""


def _values_by_prompt(report: Report, metric: str) -> pl.DataFrame:
    import polars as pl

    table = report.per_prompt
    if table is None or metric not in table.column_names:
        known = [] if table is None else [name for name in table.column_names if name != "prompt_id"]
        raise DataError(f"`report` has no values of '{metric}' by prompt; it has {known}")
    return (
        pl.DataFrame(pl.from_arrow(table.select(["prompt_id", metric]))).rename({metric: "value"}).drop_nulls("value")
    )


def _groups(rows: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    if rows["group"].is_null().all():
        raise DataError("no prompt has a group: the column `group` is null in every row")
    return rows.select("prompt_id", pl.col("group").fill_null(_NONE)).unique("prompt_id", maintain_order=True)


def _named(report: Report, prefix: str) -> dict[str, float]:
    """Value by what follows the prefix in its name, in order of the names."""
    rows = {row["name"].removeprefix(prefix): row["value"] for row in report.table.to_pylist()
            if row["name"].startswith(prefix)}  # fmt: skip
    return dict(sorted(rows.items()))
