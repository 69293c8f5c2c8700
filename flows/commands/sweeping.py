"""`alignflow sweep`: one run for every combination of values, all over one store; then a table of them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.comparing import compare_text
from flows.commands.running import run_once
from flows.store.runs import Runs
from flows.store.store import Store
from flows.tracking.comparison import said
from flows.tracking.table import finished, headlines
from flows.wiring import compile_pipeline, sweep_values
from flows.wiring.model import Graph
from tasks.contract import DataError, SpecError

if TYPE_CHECKING:
    from rich.console import Console

    from flows.store.runs import Run

STOPPED = 130


def sweep(file: Path, store: Store, name: str, values: Mapping[str, str], console: Console) -> int:
    """Run all combinations of `KEY=V1,V2,…`, the last key fastest; all are checked before the first one runs.

    One that fails, or cannot begin, does not end the others; Ctrl-C does. Returns the worst exit code. Raises SpecError
    before anything runs.
    """
    axes = {key: sweep_values(value) for key, value in values.items()}
    grid = [dict(zip(axes, point, strict=True)) for point in product(*axes.values())]
    graphs = [compile_pipeline(file, name, point, kept=store.root / ".cache" / "signatures") for point in grid]
    runs, codes = [], []
    for number, (point, graph) in enumerate(zip(grid, graphs, strict=True), 1):
        title = " ".join([name, *(f"{k}={v}" for k, v in point.items())])
        console.print(f"\n[{number}/{len(grid)}] {title}", markup=False, highlight=False)
        before = set(Runs(store).ids())
        codes.append(_run(file, store, name, point, console))
        runs += _begun(store, graph, before)
        if codes[-1] == STOPPED:
            break
    _compared(store, runs, console)
    return max(codes, default=0)


def _run(file: Path, store: Store, name: str, point: Mapping[str, str], console: Console) -> int:
    """One run; what was wrong with it is told here, lest it take the others with it."""
    try:
        return run_once(file, store, name, point, [], console)
    except (SpecError, DataError) as e:
        console.print(f"✗ {e}", markup=False, highlight=False, soft_wrap=True)
        return 2 if isinstance(e, SpecError) else 1


def _begun(store: Store, graph: Graph, before: set[str]) -> list[Run]:
    """The run that this graph has become: newer than `before`, with its parameters; another process may run as well."""
    runs = Runs(store)
    values = {n: said(p.value) for n, p in graph.parameters.items()}
    new = (runs.load(id) for id in reversed(runs.ids()) if id not in before)
    same = (r for r in new if r.pipeline == graph.pipeline and {n: said(v) for n, v in r.parameters.items()} == values)
    return [run for run in same if headlines(finished(store, run))][:1]


def _compared(store: Store, runs: list[Run], console: Console) -> None:
    """A table of the runs that have a headline, ranked where they were measured alike."""
    ids = [run.id for run in runs]
    if len(ids) < 2:
        return
    console.print()
    try:
        compare_text(store, ids, console, rounds=False, ranked=True, out=None)
    except SpecError as e:
        console.print(str(e).rpartition("\n")[0], markup=False, highlight=False, soft_wrap=True)
        compare_text(store, ids, console, rounds=False, ranked=False, out=None)
