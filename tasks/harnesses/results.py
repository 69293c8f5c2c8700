"""What a benchmark harness measured, as a Report: each task's metrics with their intervals, and the mean over tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from tasks.contract import DataError
from tasks.ids import digest
from tasks.judging.intervals import interval, stratified_interval
from tasks.kinds import Report


class _Measured(NamedTuple):
    """A metric of a task: its row of the Report, and its values by sample; empty where its value is not their mean."""

    name: str
    row: dict[str, Any]
    values: dict[str, float]
    counts: bool
    """Whether it may stand for its task in the mean over tasks."""


def harness_report(result: Mapping[str, Any], prefix: str) -> Report:
    """`eval/<prefix>/<task>/<metric>` of all metrics, and `eval/<prefix>`, the mean over tasks of their first metrics.

    result: `metrics` and `samples` as the children write them. The interval is over samples where the harness gives a
    value of each whose mean is the metric; else Student's about the value by the harness's standard error. The mean is
    over those tasks whose first metric is a share of samples that should be high. `per_prompt` has a row for each
    sample of each task, and in `<prefix>` what it adds to the mean, times the number of samples. Raises DataError
    without any metric.
    """
    samples: dict[tuple[str, str], dict[str, float]] = {}
    for s in result["samples"]:
        samples.setdefault((s["task"], s["metric"]), {})[s["sample"]] = s["value"]
    measured = [_measured(m, samples.get((m["task"], m["metric"]), {}), prefix) for m in result["metrics"]]
    if not measured:
        raise DataError("the harness measured nothing: none of the tasks has a metric that is a number")
    first: dict[str, _Measured] = {}
    for metric, one in zip(result["metrics"], measured, strict=True):
        first.setdefault(metric["task"], one)
    of_mean = {task: one.values for task, one in first.items() if one.counts}
    mean = _mean_row(of_mean, prefix)
    table = pl.DataFrame([*mean, *(one.row for one in measured)], infer_schema_length=None)
    columns = {one.name: one.values for one in measured if one.values}
    if mean:
        total, tasks = sum(map(len, of_mean.values())), len(of_mean)
        added = {i: x * total / (tasks * len(values)) for values in of_mean.values() for i, x in values.items()}
        columns = {prefix: added, **columns}
    ids = dict.fromkeys(i for values in columns.values() for i in values)
    report = Report.of(table)
    if not ids:
        return report
    by_sample = {name: [values.get(i) for i in ids] for name, values in columns.items()}
    return report.with_per_prompt(pl.DataFrame({"prompt_id": [*ids], **by_sample}))


def _measured(metric: Mapping[str, Any], samples: Mapping[str, float], prefix: str) -> _Measured:
    task, name = metric["task"], f"{prefix}/{metric['task']}/{metric['metric']}"
    values = np.array([*samples.values()])
    if not len(values) or abs(values.mean() - metric["value"]) > 1e-6:
        return _Measured(name, _by_stderr(metric, name), {}, False)
    share = bool((values >= 0).all() and (values <= 1).all())
    row = interval(values, share=share).report_row(name, "share" if share else "points")
    ids = {digest(prefix, task, sample): value for sample, value in samples.items()}
    return _Measured(name, row, ids, share and metric["higher_is_better"] is not False)


def _by_stderr(metric: Mapping[str, Any], name: str) -> dict[str, Any]:
    from scipy.special import stdtrit

    value, error, n = metric["value"], metric["stderr"], metric["n"] or 0
    half = None if error is None or n < 2 else float(stdtrit(n - 1, 0.975)) * error
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"name": f"eval/{name}", "value": value, "ci_low": low, "ci_high": high, "n": n, "unit": "points"}


def _mean_row(tasks: Mapping[str, Mapping[str, float]], prefix: str) -> list[dict[str, Any]]:
    if not tasks:
        return []
    values = np.concatenate([[*samples.values()] for samples in tasks.values()])
    strata = np.repeat(np.arange(len(tasks)), [len(samples) for samples in tasks.values()])
    mean = stratified_interval(values, np.arange(len(values)), strata, np.ones(len(tasks)))
    return [mean.report_row(prefix, "share")]


def metric_changes(report: Report, before: Report) -> list[dict[str, Any]]:
    """Rows `eval/alignment_tax/<metric>` for each metric that both Reports have: the value minus the one before.

    The interval is Student's over samples, paired; null where the Reports have no values of the same samples.
    """
    paired = changes_by_sample(report, before)
    old = {row["name"]: row["value"] for row in before.table.to_pylist()}
    found = []
    for row in report.table.to_pylist():
        name = f"alignment_tax/{row['name'].removeprefix('eval/')}"
        if row["value"] is None or old.get(row["name"]) is None:
            continue
        if paired is not None and name in paired.columns:
            differences = paired[name].drop_nulls().to_numpy()
            found.append(interval(differences, share=False).report_row(name, row["unit"]))
        else:
            found.append({"name": f"eval/{name}", "value": row["value"] - old[row["name"]], "ci_low": None,
                          "ci_high": None, "n": row["n"], "unit": row["unit"]})  # fmt: skip
    return found


def changes_by_sample(report: Report, before: Report) -> pl.DataFrame | None:
    """prompt_id and `alignment_tax/<metric>` of each metric of which both Reports have values of the same samples; None
    without any."""
    if report.per_prompt is None or before.per_prompt is None:
        return None
    now, then = (pl.DataFrame(pl.from_arrow(table)) for table in (report.per_prompt, before.per_prompt))
    made = now.select("prompt_id")
    for name in [c for c in now.columns if c in then.columns and c != "prompt_id"]:
        was = then.select("prompt_id", was=pl.col(name))
        both = now.select("prompt_id", value=pl.col(name)).join(was, on="prompt_id", how="full", coalesce=True)
        if (both["value"].is_null() == both["was"].is_null()).all():
            change = both.select("prompt_id", (pl.col("value") - pl.col("was")).alias(f"alignment_tax/{name}"))
            made = made.join(change, on="prompt_id", how="left", maintain_order="left")
    return made if made.width > 1 else None
