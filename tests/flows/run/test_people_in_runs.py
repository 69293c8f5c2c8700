"""Runs whose oracle are people, who answer through the requests of the page: stop, judge, go on."""

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from flows.commands.judge_server import judging_app
from flows.run.prefect.password import password_of_this_process
from flows.run.run import Execution, run_cached, run_pipeline
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from tasks.people.survey import Survey
from tests.flows.commands.processes import ROOT, command
from tests.flows.inline import run_inline

ASK = """
pipelines:
  ask:
    about: People label pairs.
    params: {need: 1}
    steps:
      pairs:  {task: read_preferences, source: pairs.jsonl, split: all}
      people: {task: load_oracle, oracle: {people: {survey: ask, annotators: $need}}}
      judged: {task: judge_pairs, pairs: pairs, oracle: people, labels: likelier}
      thumbs: {task: labels, pairs: judged}
"""


def judge_longest(store: Store, name: str, annotator: str) -> int:
    """Let a person prefer the longer answer in all pairs that wait for her; returns how many they were."""
    survey = Survey(store.root / "answers", name)
    headers = {"authorization": "Bearer secret"}
    client = TestClient(judging_app(survey, "secret"), "http://127.0.0.1:4300", headers=headers)
    shown, count = client.post("/next", json={"annotator": annotator}).json(), 0
    while question := shown["question"]:
        left, right = (sum(len(part["text"]) for part in question[side]) for side in ("left", "right"))
        choice = "tie" if left == right else "left" if left > right else "right"
        decision = {"annotator": annotator, "question": question["id"], "choice": choice, "seconds": 1}
        shown, count = client.post("/judgements", json=decision).json(), count + 1
    survey.close()
    return count


def test_a_run_goes_on_with_what_people_judged_and_another_run_asks_only_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    monkeypatch.chdir(tmp_path)
    file, store = tmp_path / "pipelines.yaml", Store(tmp_path / "artifacts")
    file.write_text(ASK)

    def run(pairs: int, need: int = 1) -> Execution:
        rows = [{"prompt": f"question {i}", "chosen": "short", "rejected": f"longer {i}"} for i in range(pairs)]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return run_cached(Execution(compile_pipeline(file, "ask", {"need": need}), store))

    first = run(3)
    assert (first.run.status, list(first.waiting)) == ("waiting", ["judged"]), first.errors
    assert first.waiting["judged"].startswith("3 of 3 pairs are not judged yet (3 judgements are missing): ")
    assert judge_longest(store, "ask", "ana") == 3
    second = run(3)
    assert second.run.status == "done"
    table = store.open(second.records["judged"]).table  # type: ignore[attr-defined]
    assert table.column("chosen").to_pylist() == ["longer 0", "longer 1", "longer 2"]
    assert run(4).waiting["judged"].startswith("1 of 4 pairs")
    assert judge_longest(store, "ask", "ana") == 1
    assert run(4).run.status == "done"
    assert run(4, need=2).waiting["judged"].startswith("4 of 4 pairs are not judged yet (4 judgements")
    assert judge_longest(store, "ask", "ana") == 0, "she has judged all of them"
    assert judge_longest(store, "ask", "bob") == 4
    assert run(4, need=2).run.status == "done"


@pytest.mark.slow
def test_the_command_ends_with_3_and_says_how_to_go_on(tmp_path: Path, server: str) -> None:
    (tmp_path / "pipelines.yaml").write_text(ASK)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "?", "chosen": "short", "rejected": "longer"}) + "\n")
    env = {"PREFECT_API_URL": server, "PREFECT_API_AUTH_STRING": password_of_this_process()}
    shown = command("alignflow", "run", "ask", cwd=tmp_path, code=3, **env)
    assert "judged: waits for people: 1 of 1 pairs are not judged yet" in shown
    assert "judge them with `alignflow judge ask`" in shown
    assert "when they have answered, go on with: alignflow run ask" in shown
    assert "Traceback" not in "".join(log.read_text() for log in (tmp_path / "artifacts" / "logs").glob("*ask*/*.log"))
    assert judge_longest(Store(tmp_path / "artifacts"), "ask", "ana") == 1
    assert "ask: done in" in command("alignflow", "run", "ask", cwd=tmp_path, code=0, **env)


def test_the_shipped_loop_learns_from_people_round_by_round(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    store = Store(tmp_path / "artifacts")
    small = {"rounds": 2, "prompts_per_round": 8, "num_pairs": 40, "members": 2, "k": 2}

    def run() -> Execution:
        graph = compile_pipeline(ROOT / "pipelines.yaml", "human-loop", small)
        return run_pipeline(Execution(graph, store, threads=2))

    asked = []
    while (execution := run()).run.status == "waiting":
        asked.append(judge_longest(store, "human-loop", "ana"))
        assert len(asked) <= 2
    assert execution.run.status == "done", execution.errors
    assert len(asked) == 2
    assert all(0 < n <= 8 for n in asked)
    pool = store.open(execution.records["pool@2"])
    assert len(pool) == 40 + sum(asked)  # type: ignore[arg-type]
