"""A sweep through the real command line: what its runs share is made once, and a table of them stands at its end."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from flows.commands.sweep import _compared, run_sweep
from flows.run.prefect.server import Server
from flows.store.runs import Run, Runs
from flows.store.store import Store
from tasks.contract import SpecError
from tests.flows.commands.processes import command, printed
from tests.flows.evaluated import evaluated

PIPELINE = """
pipelines:
  tiny:
    about: demonstrations learned by heart, a little
    params: {world: toy, loss: sft, steps: 2, draws: 2, lr: 1.0e-3}
    steps:
      data:   {task: load_demonstrations, source: $world, split: sft}
      blank:  {task: init_policy, demonstrations: data}
      some:   {task: take_batch, table: data, index: 1, size: 16}
      all:    {task: load_prompts, source: toy, split: heldout}
      asked:  {task: take_batch, table: all, index: 1, size: 6}
      gold:   {task: load_oracle, oracle: toy_gold}
      policy: {task: train, policy: blank, data: some, loss: $loss, lr: $lr, steps: $steps, batch: 8}
      report: {task: evaluate, policy: policy, baseline: blank, prompts: asked, oracle: gold, k: $draws, max_tokens: 6}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pipelines.yaml").write_text(PIPELINE)
    return tmp_path


def _states(run: Run) -> dict[str, str]:
    return {id: step.state for id, step in run.steps.items()}


@pytest.mark.parametrize(("values", "message"), [({"steps": "1,many"}, "steps"), ({"loss": "sft,spo"}, "spo")])
def test_a_wrong_value_is_refused_before_anything_runs(project: Path, values: dict[str, str], message: str) -> None:
    store = Store(project / "artifacts")
    with pytest.raises(SpecError, match=message):
        run_sweep(project / "pipelines.yaml", store, ["tiny"], values, Console(file=io.StringIO()))
    assert Runs(store).ids() == []


def test_a_sweep_shares_what_its_runs_have_in_common_passes_one_that_cannot_begin_and_ends_with_their_table(
    project: Path, prefect_server: Server
) -> None:
    """Whether a file is there is asked when its run begins."""
    values = ("world=./nothing.jsonl,toy", "loss=sft,{sft: {average: answer}}")
    text = command("alignflow", "sweep", "tiny", *values, cwd=project, code=2, **prefect_server.client)
    assert text.count("✗ there is no file or directory './nothing.jsonl'") == 2
    assert "[4/4] tiny world=toy loss={sft: {average: answer}}" in text
    second, first = (run for run in Runs(Store(project / "artifacts")).newest() if run.status == "done")
    shared = {"data", "blank", "some", "all", "asked", "gold", "policy/tokenize", "report/baseline_sample"}
    assert {id for id, state in _states(first).items() if state == "made"} == set(first.steps)
    assert {id for id, state in _states(second).items() if state == "hit"} >= shared
    assert _states(second)["policy"] == "made"
    table = text[text.rindex("rank  run") :]
    assert "tiny loss=sft " in table
    assert "tiny loss=sft(average=answer)" in table
    assert "differences of the last win rate" in table
    pictures = next((project / "artifacts" / "figures").glob("compare-*"))
    assert (pictures / "win_rate_per_round.png").stat().st_size > 10_000


def test_a_sweep_over_pipelines_names_each_with_each_value(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def refuse(file: Path, store: Store, name: str, point: dict[str, str], console: Console, *, again: bool) -> Run:
        begun.append(f"{name} {point}")
        raise SpecError("not today")

    monkeypatch.setattr("flows.commands.sweep.run_once", refuse)
    store, out = Store(project / "artifacts"), io.StringIO()
    (project / "pipelines.yaml").write_text(PIPELINE + "  again:\n    extends: tiny\n    params: {draws: 3}\n")
    code = run_sweep(project / "pipelines.yaml", store, ["tiny", " again", "tiny"], {"steps": "1,2"}, Console(file=out))
    assert (code, "[3/4] again steps=1" in out.getvalue()) == (2, True)
    assert [b.split()[0] for b in begun] == ["tiny", "tiny", "again", "again"]
    with pytest.raises(SpecError, match="agian"):
        run_sweep(project / "pipelines.yaml", store, ["tiny", "agian"], {}, Console(file=out))
    assert len(begun) == 4


def test_a_sweep_over_how_one_measures_shows_its_runs_without_ranks(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    several = [evaluated(store, "tiny", [[0.6, 0.5]], ids=("a", "b"), k=k, parameters={"draws": k}) for k in (2, 3)]
    text = printed(lambda console: _compared(store, several, console))
    assert "are not comparable" in text
    assert "answers per prompt: 2 (tiny draws=2 round 1); 3 (tiny draws=3 round 1)" in text
    assert "rank " not in text[text.index("are not comparable") :]
    assert all(f"tiny draws={k}  " in text for k in (2, 3))


def test_a_sweep_over_seeds_ends_with_mean_range_and_error_of_the_method(tmp_path: Path) -> None:
    """Means .55, .65 and .75: mean .65, standard error .1/√3 = .058."""
    store = Store(tmp_path / "artifacts")
    rates = ([0.5, 0.6], [0.6, 0.7], [0.7, 0.8])
    several = [
        evaluated(store, "tiny", [list(own)], ids=("a", "b"), parameters={"seed": seed})
        for seed, own in enumerate(rates)
    ]
    text = printed(lambda console: _compared(store, several, console))
    [row] = [line.split() for line in text[text.index("over seeds") :].splitlines() if "win rate" in line]
    assert row[:2] == ["tiny", "win"]
    assert {"3", "0.650", "0.550–0.750", "0.058"} <= {*row}
