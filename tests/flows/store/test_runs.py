import json
import subprocess
import sys
import textwrap
from collections.abc import Sequence

import pytest

from flows.store.records import Record
from flows.store.runs import Run, Runs, RunStep
from flows.store.store import Store
from tasks.contract import SpecError
from tests.flows.store.made import prompts, put, run_step


@pytest.fixture
def runs(store: Store) -> Runs:
    return Runs(store)


def finished(runs: Runs, pipeline: str, steps: Sequence[tuple[str, Record]], id: str = "") -> Run:
    run = runs.begin(pipeline, {"k": 5})
    run.steps = {address: run_step(address, record) for address, record in steps}
    runs.end(run, "done")
    if id:
        (runs.store.root / "runs" / f"{run.id}.json").unlink()
        run.id = id
        runs.save(run)
    return run


def test_a_run_is_written_when_it_begins_and_read_back_as_it_was(runs: Runs) -> None:
    run = runs.begin(
        "sppo-paper", {"k": 5, "oracle": {"toy": {"seed": 1}}}, file="pipelines.yaml", deployment="nightly"
    )
    assert run.id.split("-")[2:4] == ["sppo", "paper"]
    assert runs.load(run.id) == run
    run.steps["a@1"] = RunStep(
        "a@1", ("a@1", "b@1"), "load", "round 1 · a", 1, "hit", "k" * 32, "c" * 32, "Prompts", 1.5
    )
    run.links["mlflow"] = "abc"
    runs.end(run, "done")
    read = runs.load(run.id)
    assert read == run
    assert read.status == "done"
    assert read.steps["a@1"].hit
    assert read.ended >= read.started


def test_a_run_whose_process_was_killed_is_open_and_one_process_adopts_it(store: Store, runs: Runs) -> None:
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from flows.store.runs import Runs
        from flows.store.store import Store
        runs = Runs(Store(Path({str(store.root)!r})))
        run = runs.begin("sppo", {{"k": 5}})
        assert runs.open() == []
        print(run.id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    [left] = runs.open()
    assert left.id == done.stdout.strip()
    assert runs.adopt(left)
    assert not Runs(store).adopt(left)
    assert runs.open() == []
    runs.end(left, "stopped")
    assert runs.open() == []
    assert runs.load(left.id).status == "stopped"


def test_a_step_without_a_round_is_the_last_rounds(runs: Runs, store: Store) -> None:
    records = {i: put(store, prompts(f"p{i}"), seed=i) for i in (2, 9, 10)}
    run = finished(runs, "sppo", [(f"policy@{i}", r) for i, r in records.items()])
    assert runs.find("last:policy").record == records[10]
    assert runs.find(f"{run.id}:policy@2").record == records[2]
    assert runs.find("sppo/policy@9").step == run.steps["policy@9"]


def test_a_name_means_the_last_run_of_that_pipeline(runs: Runs, store: Store) -> None:
    old, new = put(store, prompts("a"), seed=1), put(store, prompts("b"), seed=2)
    finished(runs, "sppo", [("report/sample", old)], "20200101-000000-sppo-0001")
    finished(runs, "sppo", [("report/sample", new)], "20210101-000000-sppo-0002")
    finished(runs, "sppo-paper", [("report/sample", old)], "20220101-000000-sppo-paper-0003")
    assert runs.find("sppo/report/sample").record == new
    assert runs.find("last:report/sample").record == old
    assert [r.id[:4] for r in runs.newest("sppo")] == ["2021", "2020"]
    assert runs.find_run("2020").id == "20200101-000000-sppo-0001"


def test_a_name_prefers_runs_that_have_the_step_and_are_no_ticks(runs: Runs, store: Store) -> None:
    mine, ticked, behind = (put(store, prompts(i), seed=n) for n, i in enumerate("abc"))
    finished(runs, "sppo", [("policy", mine)], "20200101-000000-sppo-0001")
    tick = finished(runs, "sppo", [("policy", ticked), ("better", ticked)], "20210101-000000-sppo-0002")
    after = finished(runs, "sppo", [("mix", behind)], "20220101-000000-sppo-0003")
    for run in (tick, after):
        run.deployment = "nightly"
        runs.save(run)
    assert runs.find("sppo/policy").record == mine
    assert runs.find("sppo/better").record == ticked
    assert runs.find("sppo/mix").record == behind
    with pytest.raises(SpecError, match="'sppo/nightly' is a deployment; its last run is 20220101-000000-sppo-0003"):
        runs.find("sppo/nightly")
    with pytest.raises(SpecError, match="run 20220101-000000-sppo-0003 has no step 'polcy'"):
        runs.find("sppo/polcy")


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("last:polcy", "has no step 'polcy' (did you mean 'policy'?)"),
        ("last:broken", "step 'broken' of run 20210101-000000-sppo-0002 has no result (failed)"),
        ("spo/policy", "'spo' has not run yet (did you mean 'sppo'?)"), ("2019:policy", "there is no run '2019'"),
        ("202:policy", "'202' begins several runs"),
        ("policy", "'policy' names nothing: give RUN:STEP, NAME/STEP, a tag or at least 4 letters of a digest"),
        ("ffffffffffff", "'ffffffffffff' names nothing"), ("../keys:policy", "there is no run '../keys'"),
    ],
)  # fmt: skip
def test_a_reference_to_nothing_is_refused_with_the_nearest_name(
    runs: Runs, store: Store, ref: str, message: str
) -> None:
    record = put(store, prompts("a"))
    finished(runs, "sppo", [("policy", record)], "20200101-000000-sppo-0001")
    run = finished(runs, "sppo", [("policy", record)], "20210101-000000-sppo-0002")
    run.steps["broken"] = RunStep("broken", ("broken",), "fit", "broken", state="failed")
    runs.save(run)
    with pytest.raises(SpecError) as refused:
        runs.find(ref)
    assert message in str(refused.value)


def test_a_store_without_runs_says_how_to_begin(runs: Runs) -> None:
    with pytest.raises(SpecError, match="begin one with `alignflow run NAME`"):
        runs.find("last:policy")


def test_a_file_that_is_no_run_is_refused_by_name(runs: Runs, store: Store) -> None:
    (store.root / "runs").mkdir(parents=True)
    (store.root / "runs" / "20200101-000000-x-0001.json").write_text(json.dumps({"id": 3}))
    with pytest.raises(SpecError, match=r"20200101-000000-x-0001\.json was damaged"):
        runs.find_run("last")


def test_runs_that_begin_within_a_second_have_ids_of_their_own_in_their_order(runs: Runs) -> None:
    begun = [runs.begin("sppo", {}).id for _ in range(30)]
    assert len(set(begun)) == 30
    assert runs.ids() == begun
