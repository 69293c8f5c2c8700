"""Writes the report of runs as one HTML file that fetches nothing: `artifacts/reports/<run>.html`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flows.reporting.comparison import comparison, run_labels
from flows.reporting.figures.comparison_figures import comparison_name, draw_comparison
from flows.reporting.figures.run_figures import draw_figures
from flows.reporting.report.comparison_page import comparison_page
from flows.reporting.report.content import RunPage
from flows.reporting.report.run_page import page_of_run
from flows.reporting.results import run_results
from flows.store.finished import finished_steps
from flows.store.runs import Run
from flows.store.store import Store
from tasks.files import atomic_replace

if TYPE_CHECKING:
    from jinja2 import Environment


def report_file(store: Store, runs: Sequence[Run]) -> Path:
    """Where the report of a run lies, or that of several together."""
    name = runs[0].id if len(runs) == 1 else comparison_name([run.id for run in runs])
    return store.inside("reports", f"{name}.html")


def write_report(store: Store, runs: Sequence[Run], path: Path | None = None, *, ranked: bool = True) -> Path:
    """Write the page of a run, or of several with their comparison; returns the file. Equal runs give equal bytes.

    Raises SpecError for several runs of which one has no headline, or, if `ranked`, that are not comparable.
    """
    path = path or report_file(store, runs)
    if len(runs) == 1:
        html = html_of_run(page_of_run(store, runs[0], _pictures(store, runs[0])))
    else:
        html = _html_of_several(store, runs, path, ranked)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_replace(path, durable=False) as fresh:
        fresh.write_text(html, encoding="utf-8", errors="replace")
    return path


def try_to_write_report(store: Store, run: Run) -> Path | None:
    """Write a run's report. An error is logged: no run fails because of its report."""
    try:
        return write_report(store, [run])
    except Exception:
        logging.getLogger("alignflow").exception("the report of run %s was not written", run.id)
        return None


def _pictures(store: Store, run: Run) -> list[Path]:
    """The figures of a run, drawn where they are not."""
    steps = finished_steps(store, run)
    return draw_figures(store, run_results(store, steps), steps, store.inside("figures", run.id), run.pipeline)


def html_of_run(page: RunPage) -> str:
    """The page of one run as HTML."""
    return _templates().get_template("page.run.html").render(page=page)


def _html_of_several(store: Store, runs: Sequence[Run], path: Path, ranked: bool) -> str:
    compared = comparison(store, runs, ranked=ranked)
    labels = dict(zip((run.id for run in runs), run_labels(runs), strict=True))
    pages = {run.id: page_of_run(store, run, (), labels[run.id], answers=False) for run in runs}
    beside = path.parent == report_file(store, runs).parent
    links = {run.id: f"{run.id}.html" for run in runs if beside and report_file(store, [run]).is_file()}
    page = comparison_page(compared, pages, draw_comparison(store, compared), links)
    return _templates().get_template("page.several.html").render(page=page)


@cache
def _templates() -> Environment:
    """The templates beside this file, which escape all that they are given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent
    templates = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    templates.globals |= {name: Markup((folder / f"page.{name}").read_text()) for name in ("css", "js")}
    return templates
