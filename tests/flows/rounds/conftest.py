"""A loop of no weight: a policy is a number, and the gate measures whether it grew."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from flows.rounds.head import Continuing
from flows.rounds.history import History
from flows.rounds.tick import TickObserver, TickOutcome, Ticks
from flows.run.run import Execution
from flows.store.store import Store
from tasks.contract import JSON
from tests.flows.inline import run_inline
from tests.flows.tiny import tiny_project

TASKS = '''
from __future__ import annotations

import json, time
from typing import Annotated

import pyarrow as pa

from tasks.contract import Bounds, DataError, SpecError, Workspace
from tasks.declarations import Evaluation, Metric, StepView
from tasks.kinds import Completions, Policy, Prompts, Report


def _prompts(texts: list[str]) -> pa.Table:
    return pa.table({"prompt_id": texts, "prompt": [[{"role": "user", "content": t}] for t in texts]})


def _size(policy: Policy) -> float:
    return json.loads((policy.path / "config.json").read_text())["size"]


def questions(*, count: Annotated[int, Bounds(min=1)] = 6, first: str = "q") -> Prompts:
    """Prompts by number."""
    return Prompts.of(_prompts([f"{first}{i}" for i in range(count)]))


def piece(table: Prompts, *, index: int, size: int = 1, wrap: bool = False) -> Prompts:
    """One piece after the other."""
    start = (index - 1) * size
    if start >= len(table) and not wrap:
        raise DataError(f"the Prompts is used up at piece {index}; take smaller pieces or `wrap: true`")
    return Prompts.of(table.table.slice(start % len(table), size))


def begin(*, size: float = 0.0) -> Policy:
    """The first policy."""
    return _policy(size, None)


def _policy(size: float, work: Workspace | None) -> Policy:
    import tempfile
    from pathlib import Path

    folder = work.output if work else Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps({"size": size}))
    return Policy(folder)


def grow(policy: Policy, data: Prompts, work: Workspace, *, gain: float = 1.0, pause: float = 0.0) -> Policy:
    """The policy, larger by `gain` and by what it was shown."""
    done = work.path / "done"
    first = int(done.read_text()) if done.exists() else 0
    for step in range(first, 4):
        time.sleep(pause / 4)
        done.write_text(str(step + 1))
        work.progress(step + 1, 4, "steps")
    shown = sum(int(i[1:]) for i in data.table.column("prompt_id").to_pylist())
    return _policy(_size(policy) + gain * (1 + shown / 1000), work)


def pool(tables: list[Prompts]) -> Prompts:
    """All rows of all tables."""
    return Prompts.of(pa.concat_tables([t.table for t in tables]))


larger_metrics = {
    "eval/win_rate": Metric("win rate", ".3f", interval=True, ranks=True, role="win_rate"),
    "eval/gold": Metric("gold", role="score"),
}


def larger_evaluation(step: StepView) -> Evaluation:
    return Evaluation("which is larger", [], model=step.first("policy"), baseline=step.first("baseline"))


def larger(policy: Policy, baseline: Policy, prompts: Prompts) -> Report:
    """Whether the policy is larger than the baseline."""
    p = 0.9 if _size(policy) > _size(baseline) else 0.5
    rows = [("eval/win_rate", p, p - 0.1, p + 0.1), ("eval/gold", _size(policy), None, None)]
    return Report.of(pa.table({
        "name": [r[0] for r in rows], "value": [r[1] for r in rows],
        "ci_low": pa.array([r[2] for r in rows], pa.float64()), "ci_high": pa.array([r[3] for r in rows], pa.float64()),
        "n": [len(prompts)] * 2, "unit": ["probability", "score"],
    })).with_per_prompt(pa.table({"prompt_id": prompts.table["prompt_id"], "win_rate": [p] * len(prompts)}))


def answer(policy: Policy, prompts: Prompts) -> Completions:
    """One answer to each prompt."""
    ids = prompts.table.column("prompt_id").to_pylist()
    return Completions.of(pa.table({
        "prompt_id": ids, "prompt": prompts.table.column("prompt"),
        "completion_id": [f"{_size(policy)}-{i}" for i in ids], "completion": ["yes"] * len(ids),
        "stream": [0] * len(ids), "k": [0] * len(ids), "token_logps": [[-1.0]] * len(ids),
        "finish_reason": ["stop"] * len(ids),
    }))


def checked_evaluation(step: StepView) -> Evaluation:
    answers = step.inputs["completions"][0]
    return Evaluation("checks", [(answers, answers.inputs["policy"])], allow_seen=step.params["allow_seen"])


def checked(completions: Completions, *, allow_seen: bool = False) -> Report:
    """Has what it is given held against what trained."""
    return mixture([])


def note(prompts: Prompts, old: Report | Prompts | None = None) -> Report:
    """How many there are."""
    return mixture([])


def mixture(policies: list[Policy]) -> Report:
    """The mean of several."""
    value = sum(map(_size, policies)) / max(1, len(policies))
    return Report.of(pa.table({
        "name": ["eval/gold"], "value": [value], "ci_low": pa.array([None], pa.float64()),
        "ci_high": pa.array([None], pa.float64()), "n": [len(policies)], "unit": ["score"],
    }))
'''

PIPELINES = """
pipelines:
  loop:
    about: A number that grows.
    params: {rounds: 3, gain: 1.0, pause: 0.0, count: 60}
    steps:
      base:    {task: begin}
      prompts: {task: questions, count: $count}
      heldout: {task: questions, first: h}
    repeat:
      times: $rounds
      start: {policy: base, seen: null}
      steps:
        batch:  {task: piece, table: prompts, index: $round}
        seen:   {task: pool, tables: [prev.seen, batch]}
        policy: {task: grow, policy: prev.policy, data: seen, gain: $gain, pause: $pause}
        report: {task: larger, policy: policy, baseline: base, prompts: heldout}
    after:
      mix: {task: mixture, policies: every.policy}
    deployments:
      nightly:
        schedule: {cron: "0 2 * * *"}
        continue: {gate: better}
        steps:
          gate_prompts: {task: questions, first: g, count: 40}
          gate_batch:   {task: piece, table: gate_prompts, index: $round, size: 20, wrap: true}
          better:       {task: larger, policy: policy, baseline: prev.policy, prompts: gate_batch}
      always-on: {continue: always}
      plain: {schedule: {cron: "0 3 * * *"}}
"""


def loop_project(folder: Path, text: str = PIPELINES) -> Path:
    """A project in `folder` with the loop's tasks and its pipelines file."""
    project = tiny_project(folder)
    (project / "tasks" / "loop.py").write_text(TASKS.lstrip())
    (project / "pipelines.yaml").write_text(text)
    return project


class Heard(TickObserver):
    """Keeps the messages and the runs of ticks."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.executions: list[Execution] = []

    def say(self, text: str) -> None:
        self.messages.append(text)

    def ended(self, execution: Execution) -> None:
        self.executions.append(execution)


class Went(NamedTuple):
    """One call for ticks."""

    ticked: TickOutcome
    heard: Heard


class Loop:
    """A deployment of a project, ticked in this process."""

    def __init__(self, project: Path, deployment: str = "nightly") -> None:
        self.project, self.deployment = project, deployment
        self.store = Store(project / "artifacts")

    @property
    def continuing(self) -> Continuing:
        file, tasks = self.project / "pipelines.yaml", self.project / "tasks"
        return Continuing(file, "loop", self.deployment, self.store, tasks_root=tasks)

    def tick(self, asked: Mapping[str, JSON] | None = None, *, rounds: int = 1, force: bool = False) -> Went:
        heard = Heard()
        return Went(Ticks(self.continuing, heard).make(asked or {}, rounds=rounds, force=force), heard)

    @property
    def history(self) -> History:
        return self.continuing.ledger.history()

    def verdicts(self) -> list[str]:
        return [r.verdict for r in self.history.rounds]

    def size(self) -> float:
        """What the policy of the head is."""
        import json

        carried = self.history.head.values["policy"]
        assert carried
        return float(json.loads((self.store.root / carried.kind / carried.digest / "config.json").read_text())["size"])


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    run_inline(monkeypatch)
    return Loop(loop_project(tmp_path))
