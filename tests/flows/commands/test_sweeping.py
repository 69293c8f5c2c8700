"""A sweep through the real command line: what its runs share is made once, and a table of them stands at its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.store.runs import Run, Runs
from flows.store.store import Store

ROOT = Path(__file__).parents[3]
PIPELINE = """
pipelines:
  tiny:
    about: demonstrations learned by heart, a little
    params: {world: toy, loss: sft, steps: 2, draws: 2, lr: 1.0e-3}
    steps:
      data:   {task: load_demonstrations, source: $world, split: sft}
      blank:  {task: blank_policy, demonstrations: data}
      some:   {task: part, table: data, index: 1, size: 16}
      all:    {task: load_prompts, source: $world, split: heldout}
      asked:  {task: part, table: all, index: 1, size: 6}
      gold:   {task: load_oracle, oracle: toy_gold}
      policy: {task: train, policy: blank, data: some, loss: $loss, lr: $lr, steps: $steps, batch: 8}
      report: {task: evaluate, policy: policy, baseline: blank, prompts: asked, oracle: gold, k: $draws, max_tokens: 6}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "pipelines.yaml").write_text(PIPELINE)
    return folder


def _sweep(project: Path, *values: str, code: int = 0) -> str:
    place = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    place.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "flows.cli", "sweep", "tiny", *values]
    done = subprocess.run(command, cwd=project, env=place, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def _runs(project: Path) -> list[Run]:
    return list(Runs(Store(project / "artifacts")).newest())


def _states(run: Run) -> dict[str, str]:
    return {id: step.state for id, step in run.steps.items()}


def test_a_wrong_value_is_refused_before_anything_runs(project: Path) -> None:
    assert "steps" in _sweep(project, "steps=1,many", code=2)
    assert "spo" in _sweep(project, "loss=sft,spo", code=2)
    assert _runs(project) == []


def test_a_sweep_shares_what_its_runs_have_in_common_and_ends_with_their_table(project: Path) -> None:
    told = _sweep(project, "loss=sft,{sft: {average: answer}}")
    assert "[2/2] tiny loss={sft: {average: answer}}" in told
    second, first = _runs(project)
    shared = {"data", "blank", "some", "all", "asked", "gold", "policy/tokenize", "report/baseline_sample"}
    assert {id for id, state in _states(first).items() if state == "made"} == set(first.steps)
    assert {id for id, state in _states(second).items() if state == "hit"} >= shared
    assert _states(second)["policy"] == "made"
    table = told[told.rindex("rank") :]
    assert "tiny loss=sft " in table
    assert "tiny loss=sft(average=answer)" in table
    assert "differences of the last win rate" in table
    pictures = next((project / "artifacts" / "figures").glob("compare-*"))
    assert (pictures / "win_rate_per_round.png").stat().st_size > 10_000


def test_a_sweep_over_how_one_measures_shows_its_runs_without_ranks(project: Path) -> None:
    told = _sweep(project, "draws=2,3")
    assert "were not measured alike" in told
    assert "answers per prompt: 2 (tiny draws=2); 3 (tiny draws=3)" in told
    assert "rank " not in told[told.index("were not measured alike") :]
    assert "nothing to do" in told[: told.index("[2/2]")]
