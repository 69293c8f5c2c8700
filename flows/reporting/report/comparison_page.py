"""The page of several runs: their ranks, which differences are significant, how their parameters differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flows.reporting.comparison import ComparedMethod, ComparedRun, Comparison, about_seeds, fact_lines, short_value
from flows.reporting.differences import MetricDifference
from flows.reporting.report.content import (
    ComparisonPage,
    PageCell,
    PageRow,
    PageTable,
    RunPage,
    Whisker,
    estimate_cell,
    whiskers_of,
)
from flows.reporting.report.svg import page_figures
from flows.reporting.results import COSTS, NOTHING, Estimate, columns, estimate_text
from flows.system.durations import seconds


def comparison_page(
    compared: Comparison, pages: Mapping[str, RunPage], pictures: Sequence[Path], links: Mapping[str, str]
) -> ComparisonPage:
    """The page of a comparison. `pages`: of each run, by its id; `links`: the files of runs that have pages."""
    entries = compared.entries
    names = ", ".join(entry.label for entry in entries)
    return ComparisonPage(
        title=" · ".join(dict.fromkeys(entry.run.title for entry in entries)),
        sentence=f"{len(entries)} runs compared: {names}.", warnings=tuple(_warnings(compared)),
        table=_ranks(compared), seeds=_over_seeds(compared.methods), differences=_differences(compared),
        interval=_interval(compared),
        parameters=_parameters(entries), figures=tuple(page_figures([*pictures])),
        runs=tuple(pages[entry.run.id] for entry in entries), links=links,
    )  # fmt: skip


def _warnings(compared: Comparison) -> Iterator[str]:
    yield from (f"not ranked: measured with different {line}" for line in fact_lines(compared.differ))
    for entry in compared.entries:
        if entry.run.status != "done":
            yield f"{entry.label}: the run is {entry.run.status}"
        if not entry.metric:
            yield f"{entry.label}: has no metric that runs are ranked by"
        yield from (f"{entry.label}, {text}" for text in entry.results.warnings())


def _ranks(compared: Comparison) -> PageTable:
    """A row for each run after its last round, with what it cost, best first where they are ranked."""
    last = [entry.results.rows[-1] for entry in compared.entries]
    shown = {name: metric for name, metric in columns(last).items() if metric.compared}
    main = next((entry.metric for entry in compared.entries if entry.metric), "")
    whiskers = whiskers_of([row.metrics.get(main) for row in last])
    heads = ["run", *([">rank"] if compared.differences else []), ">round", ">prompts"]
    for name, metric in shown.items():
        heads += [f">{metric.column}", *([""] if name == main else [])]
    heads += [*(f">{name}" for name in COSTS), ">time of the steps"]
    rows = []
    methods = [method for method in compared.methods for _ in method.entries]
    for method, entry, row, whisker in zip(methods, compared.entries, last, whiskers, strict=True):
        cells = [PageCell(entry.label)]
        cells += [PageCell(str(compared.rank(method)), "", "number")] if compared.differences else []
        cells += [PageCell(text, "", "number") for text in (str(row.round or ""), f"{row.n:,}")]
        for name in shown:
            cells.append(estimate_cell(row.metrics.get(name)))
            cells += [PageCell("", "", "whisker", whisker)] if name == main else []
        rows.append(PageRow((*cells, *_spent(entry, row.round))))
    return PageTable("After the last round; intervals are 95%", tuple(heads), tuple(rows))


def _over_seeds(methods: Sequence[ComparedMethod]) -> PageTable | None:
    """The last headline of methods with several seeds, a row for each metric."""
    heads = ("method", "metric", ">seeds", ">mean", ">range", ">standard error between seeds", ">95% CI, prompts",
             ">95% CI, prompts and seeds")  # fmt: skip
    rows = [
        PageRow((
            PageCell(method.label), PageCell(over.metric.column),
            *(PageCell(text, "", "number") for text in (str(len(method.entries)), *over.texts())),
        ))
        for method in methods for over in method.over_seeds.values()
    ]  # fmt: skip
    return PageTable("Over seeds", heads, tuple(rows)) if rows else None


def _spent(entry: ComparedRun, round: int | None) -> Iterator[PageCell]:
    spent = entry.spent(round)
    yield from (PageCell(f"{spent.get(cost, 0):,.0f}", "", "number") for cost in COSTS.values())
    yield PageCell(seconds(spent.get("cost/seconds", 0.0)), "", "number")


def _differences(compared: Comparison) -> PageTable | None:
    """Every two runs: the difference of their last headlines, its interval, and which is better."""
    if not compared.differences:
        return None
    whiskers = whiskers_of([Estimate(d.value, d.low, d.high, d.n, "") for d in compared.differences], 0.0)
    rows = tuple(_difference(d, whisker) for d, whisker in zip(compared.differences, whiskers, strict=True))
    return PageTable("", ("difference", ">value", "", ">prompts", "verdict"), rows)


def _difference(d: MetricDifference, whisker: Whisker | None) -> PageRow:
    value, _, interval = estimate_text(d.value, d.low, d.high, "+.3f").partition(" (")
    verdict = f"{d.winner} is better" if d.winner else "no significant difference"
    return PageRow(
        (PageCell(f"{d.a} − {d.b}"), PageCell(value, interval.removesuffix(")"), "number"),
         PageCell("", "", "whisker", whisker), PageCell(f"{d.n:,}", "", "number"), PageCell(verdict)),
        "last" if d.winner else "",
    )  # fmt: skip


def _interval(compared: Comparison) -> str:
    pairs = len(compared.differences)
    metric = compared.entries[0].metric.rpartition("/")[2].replace("_", " ")
    several = f", all {pairs} together (Bonferroni)" if pairs > 1 else ""
    about = about_seeds(compared.methods)
    return f"Differences of the last {metric}, prompt by prompt; 95% intervals{several}. {about}"


def _parameters(entries: Sequence[ComparedRun]) -> PageTable | None:
    """The parameters that differ between the runs."""
    names = dict.fromkeys(name for entry in entries for name in entry.run.parameters)
    rows = []
    for name in names:
        texts = [_value(entry.run.parameters, name) for entry in entries]
        if len({*texts}) > 1:
            rows.append(PageRow((PageCell(name, "", "code"), *(PageCell(text, "", "code") for text in texts))))
    return PageTable("", ("parameter", *(entry.label for entry in entries)), tuple(rows)) if rows else None


def _value(parameters: Mapping[str, object], name: str) -> str:
    value = parameters.get(name)
    return NOTHING if value is None else short_value(value)  # type: ignore[arg-type]
