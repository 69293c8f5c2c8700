"""How much of a stronger supervisor's advantage a student recovers from a weak one's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.contract import DataError, Workspace
from tasks.declarations import Metric
from tasks.kinds import Report

if TYPE_CHECKING:
    import polars as pl

    from tasks.judging.rates import Floats

recovered_gap_metrics = {
    "eval/weak": Metric("weak\nsupervisor", ".3f", interval=True),
    "eval/student": Metric("strong student\n(weak labels)", ".3f", interval=True),
    "eval/ceiling": Metric("strong ceiling\n(true labels)", ".3f", interval=True),
    "eval/recovered_gap": Metric("gap recovered\n(95% CI)", ".2f", interval=True, ranks=True),
}


def recovered_gap(
    weak: Report, student: Report, ceiling: Report, work: Workspace, *, quantity: str = "accuracy"
) -> Report:
    """The share of the gap between a weak supervisor and a strong model's ceiling that a student recovers.

        gap recovered = (student − weak) / (ceiling − weak)

    The student is a strong model that was trained on the weak supervisor's labels, the ceiling the same model on true
    labels. 0: no better than its supervisor; 1: as good as with true labels. All three are measured on the same
    prompts. The interval is 95% by the jackknife over prompts: it widens without bound as the gap goes to 0, and there
    is no value where the ceiling is not above the supervisor, with a notice.

    eval/weak, eval/student, eval/ceiling: the three means · eval/recovered_gap. Raises DataError where a Report has no
    such metric, or other prompts.

    Source: Burns et al., weak-to-strong generalization, arXiv 2312.09390, section 3.

    Args:
        quantity: name of a metric by prompt, without `eval/`, higher is better; a column `pairs` weighs the prompts.
    """
    import polars as pl

    from tasks.judging.intervals import interval
    from tasks.judging.jackknife import jackknife

    reports = {"weak": weak, "student": student, "ceiling": ceiling}
    rows = _joined(reports, quantity)
    weights = rows["pairs"].to_numpy().astype(float)
    values = {name: rows[name].to_numpy() for name in reports}
    estimates = [interval(v, weights, share=True).report_row(name, "share") for name, v in values.items()]

    def gap(weights: Floats) -> float:
        low, reached, high = (float(weights @ v) for v in values.values())
        return (reached - low) / (high - low) if high > low else float("nan")

    found = jackknife(gap, weights)
    if found.value is None:
        low, high = (estimates[i]["value"] for i in (0, 2))
        work.notice(f"the ceiling, {high:.3f}, is not above the weak supervisor, {low:.3f}: there is no gap to recover")
    table = pl.DataFrame([*estimates, found.report_row("recovered_gap", "share")], infer_schema_length=None)
    return Report.of(table).with_per_prompt(rows)


def _joined(reports: dict[str, Report], metric: str) -> pl.DataFrame:
    """prompt_id, pairs, and each Report's values of the metric. Raises DataError where they differ in prompts."""
    import polars as pl

    joined: pl.DataFrame | None = None
    for name, report in reports.items():
        if report.per_prompt is None or metric not in report.per_prompt.column_names:
            raise DataError(f"`{name}` has no values of '{metric}' by prompt")
        table = pl.DataFrame(pl.from_arrow(report.per_prompt))
        pairs = pl.col("pairs") if "pairs" in table.columns else pl.lit(1)
        table = table.select("prompt_id", pl.col(metric).alias(name), pairs=pairs).drop_nulls(name)
        if joined is None:
            joined = table
            continue
        both = joined.join(table.drop("pairs"), on="prompt_id", how="inner", maintain_order="left")
        if not len(both) == len(joined) == len(table):
            raise DataError(f"`{name}` has {len(table)} prompts with a value of '{metric}', of which {len(both)} are "
                            f"among the {len(joined)} of the Reports before it: measure all on the same")  # fmt: skip
        joined = both
    if joined is None or joined.is_empty():
        raise DataError(f"there is no prompt with a value of '{metric}'")
    return joined
