"""The command line of continuing deployments: what it shows, what it refuses, and with which exit code."""

import json
from pathlib import Path

import pytest

from flows.rounds.gate import Evidence
from flows.rounds.history import Finished, Measured, RolledBack
from flows.rounds.ledger import Ledger
from flows.run.prefect.server import Server
from flows.store.store import Store
from flows.wiring.graph import CarriedValue
from tests.flows.commands.processes import alignflow, command
from tests.flows.rounds.test_history import begun, finished

PIPELINES = """
pipelines:
  growing-pool:
    about: Demonstrations that pile up.
    params: {world: toy, rounds: 2, size: 20}
    steps:
      rows: {task: load_demonstrations, source: $world, split: rm}
    repeat:
      times: $rounds
      start: {pool: null}
      steps:
        batch:  {task: take_batch, table: rows, index: $round, size: $size}
        pool:   {task: concat, tables: [prev.pool, batch]}
    deployments:
      every-night: {continue: always}
      whole: {schedule: {cron: "0 3 * * *"}}
"""


def run(*arguments: str, cwd: Path, code: int = 0) -> str:
    return "".join(alignflow(*arguments, cwd=cwd, code=code))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    (folder / "pipelines.yaml").write_text(PIPELINES)
    return folder


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A folder whose ledger holds an accepted, a rejected and an unfinished round of `sppo/nightly`."""
    (tmp_path / "pipelines.yaml").write_text(PIPELINES)
    ledger = Ledger(Store(tmp_path / "artifacts"), "sppo", "nightly")
    headline = {"eval/win_rate": Measured(0.7, 0.66, 0.74, 128), "eval/gold": Measured(1.5, 1.0, 2.0, 512)}
    policy = CarriedValue("Policy", "ab" * 16)
    gate = Measured(0.625, 0.5812, 0.6688, 64)
    ledger.append(begun(1, lr=0.1))
    evidence = Evidence(0.0041, 0.025, 0.05, 64, 0.2, 0.61)
    ledger.append(Finished(1, True, gate, evidence, headline, {"policy": policy}, {}))
    ledger.append(begun(2, lr=0.2))
    ledger.append(finished(2, accepted=False))
    ledger.append(begun(3, lr=0.2))
    return tmp_path


def test_the_history_is_a_table_for_people_and_facts_for_scripts(history: Path) -> None:
    out = run("rounds", "sppo", cwd=history)
    [first, second, third] = [line.rstrip() for line in out.splitlines() if "run-" in line]
    for part in ("1", "2026-01-02 02:00", "run-1", "lr=0.1", "0.625 (0.581–0.669; 64)", "0.0041 (0.025)",
                 "0.700 (0.660–0.740; 128)", "1.500", "accepted ← head"):  # fmt: skip
        assert part in first
    assert "lr=0.2" in second
    assert second.endswith("rejected")
    assert "lr" not in third
    assert third.endswith("unfinished")
    assert "round 3 is unfinished: the next tick finishes it first; to give it up: alignflow rounds sppo/nightly" in out
    assert "the gate accepts round t where p ≤ 0.05 / (t·(t + 1)): however many rounds are made, the probability" in out
    assert "no better than its head on the gate's prompts is at most 0.05 (0.025 of it used so far)" in out
    [facts] = json.loads(run("rounds", "sppo/nightly", "--json", cwd=history))
    assert (facts["gate"]["bound"], facts["rounds"][0]["evidence"]["p"]) == (0.05, 0.0041)
    assert (facts["last"], facts["unfinished"], facts["can_go_back_to"]) == (3, 3, [0, 1])
    assert facts["head"] == {"round": 1, "values": {"policy": {"kind": "Policy", "digest": "ab" * 16}}, "every": {}}
    assert [r["verdict"] for r in facts["rounds"]] == ["accepted", "rejected", "unfinished"]
    assert facts["rounds"][0]["gate"] == {"value": 0.625, "low": 0.5812, "high": 0.6688, "n": 64}


def test_rolling_back_is_one_command_and_a_wrong_round_is_refused(history: Path) -> None:
    ledger = Ledger(Store(history / "artifacts"), "sppo", "nightly")
    assert "round 2 of sppo/nightly left no head; choose one of [0, 1]" in run(
        "rounds", "sppo", "--back-to", "2", cwd=history, code=2
    )
    out = run("rounds", "sppo", "--back-to", "0", cwd=history)
    assert out == "sppo/nightly: round 3 is given up; the next tick is round 4 and starts from the start\n"
    assert isinstance(ledger.events()[-1], RolledBack)
    for number in (4, 5, 6):
        ledger.append(begun(number, lr=0.3))
        ledger.append(finished(number, accepted=False))
    message = "stalled: 3 consecutive rejections with these parameters since the head moved; ticks do nothing until"
    assert message in run("rounds", "sppo", cwd=history)
    [facts] = json.loads(run("rounds", "sppo", "--back-to", "1", "--json", cwd=history))
    assert (facts["head"]["round"], facts["stalled"], facts["last"]) == (1, False, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rounds", "sppoo"), "did you mean 'sppo'"),
        (("rounds", "growing-pool"), "no rounds here yet; make one with: alignflow run growing-pool/every-night"),
        (("rounds", "growing-pool/every-nite"), "did you mean 'growing-pool/every-night'"),
        (
            ("rounds", "growing-pool/whole"),
            "does not continue, so it has no rounds of its own; deployments that "
            "continue: sppo/nightly, growing-pool/every-night",
        ),
        (("plan", "growing-pool/every-night", "rounds=abc"), "rounds = 'abc'; the number of ticks must be a whole"),
        (("run", "growing-pool/everynight"), "did you mean 'every-night'"),
        (("run", "growing-pool/every-night", "rounds=0"), "rounds = '0'; the number of ticks must be a whole number"),
        (("run", "growing-pool/every-night", "force=maybe"), "force = 'maybe'; choose one of [false, true]"),
        (("run", "growing-pool/every-night", "sise=3"), "did you mean 'size'"),
        (("run", "growing-pool/every-night", "--fresh", "policy"), "--fresh applies only to pipelines"),
        (("run", "growing-pool/whole", "--force"), "--force applies only to continuing deployments"),
        (("plan", "growing-pool/whole", "rounds=0"), "growing-pool.repeat.times = 0; it must be at least 1"),
        (("check", "growing-pool/hole"), "did you mean 'whole'"),
    ],
)
def test_a_wrong_request_is_one_message_and_exit_code_2(
    history: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in run(*arguments, cwd=history, code=2)
    assert [p.name for p in (history / "artifacts" / "ledger").iterdir()] == ["sppo.nightly.jsonl"]


def test_a_damaged_ledger_is_an_error_with_exit_code_1(history: Path) -> None:
    file = history / "artifacts" / "ledger" / "sppo.nightly.jsonl"
    file.write_text(file.read_text().replace('"begun"', '"begone"', 1))
    message = run("rounds", "sppo", cwd=history, code=1)
    assert "sppo.nightly.jsonl:1: invalid ledger event" in message
    assert message.count("sppo.nightly.jsonl") == 1


def test_ticks_from_the_command_line_and_the_plan_of_the_next_one(project: Path, prefect_server: Server) -> None:
    assert "the next tick is round 1, from the start" in run("plan", "growing-pool/every-night", cwd=project)
    out = command("alignflow", "run", "growing-pool/every-night", "rounds=2", cwd=project, **prefect_server.client)
    assert "growing-pool/every-night: done in" in out
    assert "round 2 of growing-pool/every-night accepted" in out
    assert "alignflow rounds growing-pool/every-night" in out
    plan = json.loads(run("plan", "growing-pool/every-night", "--json", cwd=project))
    assert [s["step"] for s in plan["steps"]] == ["rows", "batch@3", "prev.pool", "pool@3"]
    assert [s["state"] for s in plan["steps"]] == ["cached", "run", "cached", "open"]
    assert "prev.pool" in run("graph", "growing-pool/every-night", cwd=project)
    run("gc", cwd=project)
    used_up = command(
        "alignflow", "run", "growing-pool/every-night", "size=600", cwd=project, code=1, **prefect_server.client
    )
    assert "is used up" in used_up
    assert "round 3 of growing-pool/every-night is unfinished: what is done is kept" in used_up
    assert "to give it up: alignflow rounds growing-pool/every-night --back-to 2" in used_up
    assert "✓ growing-pool/every-night" in run("check", "growing-pool/every-night", cwd=project)


def test_a_deployment_that_does_not_continue_runs_the_whole_pipeline(project: Path) -> None:
    out = command("alignflow", "run", "growing-pool/whole", cwd=project)
    assert "growing-pool/whole: " in out
    [found] = json.loads(run("rounds", "growing-pool", "--json", cwd=project))
    assert found["deployment"] == "growing-pool/every-night"
