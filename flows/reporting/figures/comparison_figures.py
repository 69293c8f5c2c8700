"""Figures of several runs together: their headline by round, and what each nat of KL bought in gold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path

from flows.reporting.comparison import Comparison
from flows.reporting.figures.lines import gold_against_kl, metric_by_round
from flows.reporting.figures.saving import figure_cache, save_figures
from flows.store.store import Store


def draw_comparison(store: Store, compared: Comparison, out: Path | None = None) -> list[Path]:
    """The figures of runs that are comparable, in `out` or a folder named after the runs."""
    if compared.differ:
        return []
    runs = {entry.label: entry.results for entry in compared.entries}
    ranked_by = next((entry.metric for entry in compared.entries if entry.metric), "")
    drawings = {
        "win_rate_per_round": partial(metric_by_round, runs, ranked_by), "gold_vs_kl": partial(gold_against_kl, runs),
    }  # fmt: skip
    name = comparison_name([entry.run.id for entry in compared.entries])
    return save_figures(drawings, out or store.inside("figures", name), figure_cache(store))


def comparison_name(ids: Sequence[str]) -> str:
    """What the files of a comparison are called: the same for the same runs in any order."""
    return f"compare-{blake2b(json.dumps(sorted(ids)).encode(), digest_size=4).hexdigest()}"
