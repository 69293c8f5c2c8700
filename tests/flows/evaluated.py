"""Finished runs with a headline by round, made by hand: real tables and reports, no model."""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.python.declared import Declarations
from flows.reporting.results import Estimate, with_metrics
from flows.store.records import HowMade, Record
from flows.store.runs import Run, Runs, Status
from flows.store.store import Store
from tasks.contract import JSON
from tasks.kinds import Completions, Oracle, Policy, Report, WinProbs
from tests.flows.store.made import completions, model, prompts, put, run_step

IDS = ("swan", "fox", "owl", "eel", "cat", "bat")
_NUMBERS = count(1)


def of_task(task: str, metrics: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Estimates as a Report of a shipped task has them."""
    return with_metrics(metrics, Declarations().of_task(task, "metrics"))


def report(rates: Sequence[float], gold: float, kl: float, ids: Sequence[str] = IDS) -> Report:
    """A Report with its table by prompt; the interval of the win rate is mean ± 0.03."""
    mean = float(np.mean(rates))
    rows = [("eval/win_rate", mean, 0.03, "probability"), ("eval/gold", gold, 0.1, "score"), ("eval/kl", kl, 0, "nats")]
    table = pa.table({
        "name": [r[0] for r in rows], "value": [r[1] for r in rows], "ci_low": [r[1] - r[2] for r in rows],
        "ci_high": [r[1] + r[2] for r in rows], "n": [len(ids)] * len(rows), "unit": [r[3] for r in rows],
    })  # fmt: skip
    return Report.of(table).with_per_prompt(pa.table({"prompt_id": list(ids), "win_rate": list(rates)}))


def evaluated(
    store: Store,
    pipeline: str,
    rounds: Sequence[Sequence[float]],
    *,
    oracle: str = "toy_gold",
    base: str = "base",
    ids: Sequence[str] = IDS,
    k: int = 4,
    parameters: Mapping[str, JSON] | None = None,
    status: Status = "done",
) -> Run:
    """A run whose report of each round has these win rates by prompt; gold 1 + round, KL ½ round, 10 samples each."""
    runs, files = Runs(store), store.root.parent / "models"
    start = put(store, Policy(model(files / base, base)), "fit", name=base)
    chosen: JSON = {"choice": f"oracles/{oracle}", "params": {}}
    judge = put(store, Oracle(model(files / oracle, oracle)), "load_oracle", oracle=chosen)
    held = put(store, prompts(*ids), "load_prompts", ids=len(ids))
    run = runs.begin(pipeline, dict(parameters or {}))
    run.steps["base"] = run_step("base", start)
    for number, rates in enumerate(rounds, 1):
        trained = put(
            store, Policy(_new(files)), "fit", {"policy": [start]}, made=HowMade(2.0), seed=run.id, round=number
        )
        run.steps[f"policy@{number}"] = run_step(f"policy@{number}", trained)
        _measure(store, run, number, rates, (start, judge, held, trained), ids, k)
    run.headline = tuple(f"report@{n}" for n in range(1, len(rounds) + 1))
    runs.end(run, status)
    return run


def _measure(
    store: Store, run: Run, number: int, rates: Sequence[float], fed: tuple[Record, ...], ids: Sequence[str], k: int
) -> None:
    start, judge, held, trained = fed
    answers = put(store, _answers(ids, f"{run.id}-{number}"), "sample", {"policy": [trained], "prompts": [held]},
                  HowMade(1.0, totals={"samples": 10.0}), k=k, seed=run.id, round=number)  # fmt: skip
    others = put(store, _answers(ids, "base"), "sample", {"policy": [start], "prompts": [held]}, k=k)
    table = WinProbs.of(pa.table({"prompt_id": list(ids), "a_id": list(ids), "b_id": list(ids), "p": list(rates)}))
    judged = put(store, table, "compare", {"completions": [answers], "others": [others], "oracle": [judge]},
                 HowMade(1.0, totals={"queries": 7.0}), seed=run.id, round=number)  # fmt: skip
    parents = {"win_probs": [judged], "completions": [answers], "others": [others]}
    made = put(store, report(rates, 1.0 + number, 0.5 * number, ids), "measure", parents, seed=run.id, round=number)
    for name, record in (("report/sample", answers), ("report/compare", judged), ("report", made)):
        run.steps[f"{name}@{number}"] = run_step(f"{name}@{number}", record)


def _answers(ids: Sequence[str], whose: str) -> Completions:
    table = completions(*ids).table
    at = table.schema.get_field_index("completion_id")
    return Completions.of(table.set_column(at, table.schema.field(at), pa.array([f"{whose}-{i}" for i in ids])))


def _new(folder: Path) -> Path:
    number = next(_NUMBERS)
    return model(folder / f"policy{number}", f"policy {number}")
