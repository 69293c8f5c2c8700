"""Figures of a run, drawn from its reports and curves: win rate by round, gold against KL, training curves.

Only data that records hold goes in, so a cached run has the same figures as a fresh one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flows.reporting.figures.accuracy_by_kl import accuracy_by_kl
from flows.reporting.figures.agreement_matrix import agreement_figure
from flows.reporting.figures.bins_figure import bins_figure, histograms_of, names_of_figures
from flows.reporting.figures.correlation_matrix import correlation_figure
from flows.reporting.figures.exploitability_figure import exploitability_figures, first_is_base
from flows.reporting.figures.likelihoods import likelihoods
from flows.reporting.figures.lines import gold_against_kl, metric_by_round
from flows.reporting.figures.overoptimisation import overoptimised
from flows.reporting.figures.policy_matrix import policy_matrix
from flows.reporting.figures.probe_figure import probe_figure
from flows.reporting.figures.reliability import reliability_figure
from flows.reporting.figures.saving import Drawing, figure_cache, save_figures
from flows.reporting.figures.training import curves_of, declared_curves, training
from flows.reporting.results import RunResults
from flows.store.finished import FinishedStep

if TYPE_CHECKING:
    from flows.store.store import Store


def draw_figures(
    store: Store, results: RunResults, steps: Sequence[FinishedStep], directory: Path, title: str
) -> list[Path]:
    """Draw what the results allow into `directory` and return the files; fewer when there is less to show."""
    return save_figures(drawings_of(store, results, steps, title), directory, figure_cache(store))


def drawings_of(store: Store, results: RunResults, steps: Sequence[FinishedStep], title: str) -> dict[str, Drawing]:
    """Every figure that a run may have, by its name and in the order in which people should see them.

    A drawing draws nothing where the run has not what the figure shows.
    """
    by_round = dict.fromkeys(name for row in results.rows for name, e in row.metrics.items() if e.metric.figure)
    drawings: dict[str, Drawing] = {
        **{name.rpartition("/")[2]: partial(metric_by_round, {"": results}, name, title) for name in by_round},
        "gold_vs_kl": partial(gold_against_kl, {"": results}, title),
        "gold_vs_proxy": partial(overoptimised, results, title),
        "accuracy_by_kl": partial(accuracy_by_kl, results, title),
        "reliability": partial(reliability_figure, results, title),
        "agreement_matrix": partial(agreement_figure, results, title),
        "correlations": partial(correlation_figure, results, title),
        "policy_matrix": partial(policy_matrix, results, title),
        "probe": partial(probe_figure, results, title),
        "exploitability": partial(exploitability_figures, results, title, base_first=first_is_base(store, steps)),
    }
    histograms = histograms_of(results)
    for name, shown in names_of_figures(histograms).items():
        drawings[name] = partial(bins_figure, shown, histograms[shown], title)
    for name, curves in curves_of(steps).items():
        declared = declared_curves(store, next(s.record.task for s in steps if s.name == name))
        file, heading = name.replace("/", "_"), f"{name} · {title}"
        drawings[f"training_{file}"] = partial(training, curves, declared, heading)
        drawings[f"likelihoods_{file}"] = partial(likelihoods, curves, declared, heading)
    return drawings
