"""Several Reports on the same prompts as one, so that one table, one comparison and one gate see all their numbers."""

from __future__ import annotations

from dataclasses import replace

from tasks.answer_texts import bleu_and_rouge_metrics, diversity_metrics, refusals_metrics
from tasks.contract import DataError
from tasks.declarations import Evaluation, StepView
from tasks.kinds import Report
from tasks.length_controlled import length_controlled_metrics
from tasks.likelihoods import kl_to_previous_metrics, perplexity_metrics
from tasks.measure import measure_metrics

_FURTHER = {
    **length_controlled_metrics, **kl_to_previous_metrics, **diversity_metrics, **refusals_metrics,
    **bleu_and_rouge_metrics, **perplexity_metrics,
}  # fmt: skip
_NARROW = ("eval/kl_previous", "eval/self_bleu", "eval/refusals", "eval/bleu", "eval/perplexity")
"""Metrics with a column without an interval: one table must show all that an evaluation measures."""
join_reports_metrics = {
    **measure_metrics,
    **{name: replace(metric, column="", interval=False) for name, metric in _FURTHER.items()},
    **{n: replace(_FURTHER[n], column=_FURTHER[n].column.replace("\n(95% CI)", ""), interval=False) for n in _NARROW},
    "eval/lc_win_rate": _FURTHER["eval/lc_win_rate"],
}


def join_reports_evaluation(step: StepView) -> Evaluation | None:
    """That of the first Report, whose metrics the joined one is ranked by."""
    first = step.first("reports")
    found = first.evaluation if first is not None else None
    return found and replace(found, includes=[*step.inputs.get("reports", ())])


def join_reports(reports: list[Report]) -> Report:
    """Several Reports as one: their rows one after another, their values by prompt joined by prompt_id.

    A prompt that one of them lacks has no values of its metrics. Bins stand one after another, too. Raises DataError
    without a Report, and where two have a metric or a column of one name.
    """
    import polars as pl

    if not reports:
        raise DataError("`reports` is empty")
    rows = pl.concat([pl.DataFrame(pl.from_arrow(report.table)) for report in reports])
    _refuse_repeated(rows["name"].to_list())
    joined = Report.of(rows)
    tables = [pl.DataFrame(pl.from_arrow(r.per_prompt)) for r in reports if r.per_prompt is not None]
    _refuse_repeated([name for table in tables for name in table.columns if name != "prompt_id"])
    if tables:
        whole = tables[0]
        for table in tables[1:]:
            whole = whole.join(table, on="prompt_id", how="full", coalesce=True, maintain_order="left_right")
        joined = joined.with_per_prompt(whole)
    bins = [row for report in reports if report.bins is not None for row in report.bins.to_pylist()]
    return joined.with_bins(bins) if bins else joined


def _refuse_repeated(names: list[str]) -> None:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{', '.join(repeated)} occur in several of the Reports: a metric has one value")
