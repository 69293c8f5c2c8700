"""`alignflow sweep`: one run for every pipeline and combination of values, all over one store; then their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from rich.console import Console

from flows.commands.compare import compare_text
from flows.commands.printing import say
from flows.commands.run import CODES, run_once
from flows.reporting.results import headlines
from flows.store.finished import finished_steps
from flows.store.runs import Run
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from flows.wiring.params import sweep_values
from tasks.contract import DataError, SpecError


def run_sweep(
    file: Path, store: Store, names: Sequence[str], values: Mapping[str, str], console: Console, *, again: bool = False
) -> int:
    """Run pipelines for all combinations of `KEY=V1,V2,…`, the last key fastest; all are checked before the first runs.

    A run that fails, or cannot begin, does not stop the others; Ctrl-C does. Unless `again`, a run that would only
    repeat a finished one is not made. Returns the worst exit code. Raises SpecError before anything runs.
    """
    axes = {key: sweep_values(value) for key, value in values.items()}
    points = [dict(zip(axes, point, strict=True)) for point in product(*axes.values())]
    grid = [(name, point) for name in dict.fromkeys(filter(None, map(str.strip, names))) for point in points]
    for name, point in grid:
        compile_pipeline(file, name, point, cache=store.python_cache)
    runs, codes = [], []
    for number, (name, point) in enumerate(grid, 1):
        title = " ".join([name, *(f"{k}={v}" for k, v in point.items())])
        say(console, f"\n[{number}/{len(grid)}] {title}")
        try:
            runs.append(run_once(file, store, name, point, console, again=again))
            codes.append(CODES[runs[-1].status])
        except (SpecError, DataError) as e:  # the other runs may still succeed
            say(console, f"✗ {e}")
            codes.append(2 if isinstance(e, SpecError) else 1)
        if codes[-1] == CODES["stopped"]:
            break
    _compared(store, [run for run in runs if headlines(finished_steps(store, run))], console)
    return max(codes, default=0)


def _compared(store: Store, runs: list[Run], console: Console) -> None:
    """Print a table of the runs that have a headline, ranked if they are comparable."""
    ids = [run.id for run in runs]
    if len(ids) < 2:
        return
    console.print()
    try:
        compare_text(store, ids, console, rounds=False, ranked=True, out=None)
    except SpecError as e:
        say(console, str(e).rpartition("\n")[0])
        compare_text(store, ids, console, rounds=False, ranked=False, out=None)
