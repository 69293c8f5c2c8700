"""A finished run of a pipeline like sppo, made by hand: two rounds, base against base, real tables, no model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from flows.store.keys import plain_value
from flows.store.records import HowMade, Record
from flows.store.runs import Run, Runs, Status
from flows.store.store import Store
from flows.wiring.model import ChoiceValue, Graph, Node, Parameter
from flows.wiring.types import parse_type
from flows.wiring.where import Where
from tasks.kinds import Artifact, Completions, Logps, Policy, Report, Scores, WinProbs
from tests.flows.store.made import model, prompts, put, run_step
from tests.flows.tiny import node

QUESTIONS = ("swan", "fox")
BASE = {"swan": "go away .", "fox": "the fox is the fox . well , you know ."}
BETTER = {"swan": "good question ! the swan lives in the swamp .", "fox": "certainly . the fox eats mice ."}
READ = "'prompts.csv' (train) is read as prompts (prompt); columns not used: [id]"
"""The notice of the step that loads prompts."""
WIN = {1: 0.62, 2: 0.71}
"""Win rate by round."""


class Fabricated(NamedTuple):
    """A store with one finished run."""

    store: Store
    graph: Graph
    run: Run
    records: dict[str, Record]
    """By node id."""


def completions(texts: Mapping[str, str], policy: str) -> Completions:
    """One answer to each question; ids name the policy."""
    ids = list(texts)
    return Completions.of(pa.table({
        "prompt_id": ids, "prompt": [[{"role": "user", "content": f"where does the {i} live ?"}] for i in ids],
        "completion_id": [f"{policy}-{i}" for i in ids], "completion": list(texts.values()), "stream": [0] * len(ids),
        "k": [0] * len(ids), "token_logps": [[-1.0, -0.5]] * len(ids), "finish_reason": ["stop", "length"],
    }))  # fmt: skip


def report(win_rate: float, gold: float, kl: float) -> Report:
    """A report with intervals of ± 0.03 around the win rate."""
    rows = [
        ("eval/win_rate", win_rate, win_rate - 0.03, win_rate + 0.03, "probability"),
        ("eval/gold", gold, gold - 0.1, gold + 0.1, "score"), ("eval/kl", kl, kl, kl, "nats"),
        ("eval/length", 12.0, 11.0, 13.0, "tokens"), ("eval/finished", 0.5, 0.0, 1.0, "share"),
    ]  # fmt: skip
    columns = list(zip(*rows, strict=True))
    names = ("name", "value", "ci_low", "ci_high", "unit")
    return Report.of(pa.table({**dict(zip(names, map(list, columns), strict=True)), "n": [2] * len(rows)}))


class Maker:
    """Publishes results and remembers the nodes they belong to."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "artifacts")
        self.root = root
        self.nodes: dict[str, Node] = {}
        self.records: dict[str, Record] = {}

    def step(
        self, id: str, task: str, handle: Artifact, inputs: Mapping[str, str] | None = None, **made: Any
    ) -> Record:
        """Publish `handle` as the result of the step `id`, fed by the steps of `inputs`."""
        params = made.pop("params", {})
        fed = {port: [self.records[i]] for port, i in (inputs or {}).items()}
        values = {name: plain_value(value) for name, value in params.items()}
        self.records[id] = put(self.store, handle, task, fed, HowMade(2.0, **made), step=id, **values)
        self.nodes[id] = replace(
            node(id, task, type(handle).__name__, inputs=inputs or {}, **params), module=f"tasks.{task}", work=False,
            where=Where("pipelines.yaml", 3, 5),
        )  # fmt: skip
        return self.records[id]

    def evaluate(self, name: str, at: str, policy: str, numbers: tuple[float, float, float]) -> None:
        """The steps of `evaluate`, as the composite makes them."""
        texts = BASE if policy == "base" else {q: f"{BETTER[q]} {at}".strip() for q in QUESTIONS}
        mine, theirs = f"{name}/sample{at}", f"{name}/baseline_sample{at}"
        self.step(mine, "sample", completions(texts, policy), {"policy": policy, "prompts": "heldout"},
                  totals={"samples": 2.0})  # fmt: skip
        other = completions(BASE, f"base-{name}")
        self.step(theirs, "sample", other, {"policy": "base", "prompts": "heldout"}, params={"stream": 1})
        self._judged(name, at, policy)
        fed = {
            "win_probs": f"{name}/compare{at}", "completions": mine, "others": theirs, "scores": f"{name}/score{at}",
            "logps": f"{name}/logps{at}",
        }  # fmt: skip
        self.step(f"{name}{at}", "measure", report(*numbers), fed)

    def _judged(self, name: str, at: str, policy: str) -> None:
        mine, theirs = f"{name}/sample{at}", f"{name}/baseline_sample{at}"
        ids = [f"{policy}-{q}" for q in QUESTIONS]
        judged = WinProbs.of(pa.table({
            "prompt_id": list(QUESTIONS), "a_id": ids, "b_id": [f"base-{name}-{q}" for q in QUESTIONS],
            "p": [0.9, 0.25],
        }))  # fmt: skip
        self.step(f"{name}/compare{at}", "compare", judged, {"completions": mine, "others": theirs},
                  totals={"queries": 4.0})  # fmt: skip
        table = self.store.open(self.records[mine]).table  # type: ignore[attr-defined]
        self.step(
            f"{name}/score{at}", "score", Scores.of(table.append_column("score", pa.array([2.5, -0.5]))),
            {"completions": mine},
        )  # fmt: skip
        logps = pa.table({
            "prompt_id": list(QUESTIONS), "completion_id": ids, "logps": [-2.0, -2.5],
            "lengths": pa.array([2, 2], pa.int32()),
        })  # fmt: skip
        self.step(f"{name}/logps{at}", "logps", Logps.of(logps), {"policy": "base", "data": mine})


def curves(steps: int = 40) -> list[dict[str, float]]:
    """Rows of a training, falling loss."""
    return [
        {"step": i, "train/loss": 1 / (i + 1), "rewards/margins": i / steps, "grad_norm": 3.0} for i in range(steps)
    ]


def fabricate(root: Path, *, status: Status = "done", hits: Sequence[str] = (), rounds: int = 2) -> Fabricated:
    """A store with a run of `rounds` rounds. `hits`: steps that the run found in the store."""
    make = Maker(root)
    make.step("base", "fit", Policy(model(root / "checkpoint", "base")), curves=curves())
    make.step("heldout", "load_prompts", prompts(*QUESTIONS), notices=[READ])
    make.evaluate("base_check", "", "base", (0.49, 0.7, 0.0))
    for n in range(1, rounds + 1):
        loss = ChoiceValue("losses/pointwise", "sppo", {"eta": 10.0})
        before = f"policy@{n - 1}" if n > 1 else "base"
        trained = Policy(model(root / f"checkpoint{n}", f"round {n}"))
        make.step(f"policy@{n}", "fit", trained, {"policy": before, "data": "heldout"}, curves=curves(),
                  totals={"tokens": 1000.0}, params={"loss": loss, "lr": 5e-4})  # fmt: skip
        make.evaluate("report", f"@{n}", f"policy@{n}", (WIN[n], 1.0 + n, 0.5 * n))
    return Fabricated(make.store, _graph(make, rounds), _run(make, status, hits, rounds), make.records)


def _graph(make: Maker, rounds: int) -> Graph:
    parameters = {
        name: Parameter(name, value, parse_type(annotation))
        for name, value, annotation in (
            ("k", 5, "int"), ("lr", 5e-4, "float"), ("oracle", "toy", "str"), ("workers", 2, "Execution[int]"),
            ("max_tokens", None, "int | None"),
        )
    }  # fmt: skip
    headline = tuple(f"report@{n}" for n in range(1, rounds + 1))
    return Graph(
        "sppo", "Self-play", str(make.root / "pipelines.yaml"), make.nodes, {i: i for i in make.nodes}, parameters,
        rounds, headline,
    )  # fmt: skip


def _run(make: Maker, status: Status, hits: Sequence[str], rounds: int) -> Run:
    runs = Runs(make.store)
    run = runs.begin("sppo", {"k": 5, "lr": 5e-4}, file=str(make.root / "pipelines.yaml"))
    run.rounds, run.headline = rounds, tuple(f"report@{n}" for n in range(1, rounds + 1))
    for id, record in make.records.items():
        run.steps[id] = run_step(id, record, "hit" if id in hits else "made")
    runs.end(run, status)
    return run
