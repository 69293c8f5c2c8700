"""Ticks: gates, rejections, stalls, rollback, and what stays unfinished."""

import re
import shutil

import pytest

from flows.commands.outcome import print_outcome
from flows.commands.rounds import roll_back
from flows.rounds.tick import rounds_begun_in
from flows.store.keys import Key
from flows.store.maintenance import collect_garbage
from flows.store.runs import Runs
from tasks.contract import DataError, SpecError
from tasks.kinds import Policy
from tests.flows.commands.processes import printed
from tests.flows.rounds.conftest import PIPELINES, Loop


def _pieces(loop: Loop) -> list[str]:
    """Which prompts every run of a round took, in the order of the runs."""
    found = []
    for run in reversed(list(Runs(loop.store).newest("loop"))):
        for step in run.steps.values():
            if step.id.startswith("batch@") and (record := loop.store.record(step.key)):
                found += loop.store.open(record).table.column("prompt_id").to_pylist()  # type: ignore[attr-defined]
    return found


def test_ticks_go_on_from_each_other_and_the_steps_after_run_once(loop: Loop) -> None:
    went = loop.tick(rounds=3)
    assert (went.ticked.status, went.ticked.made, loop.verdicts()) == ("done", [1, 2, 3], ["accepted"] * 3)
    assert loop.size() == pytest.approx(1 + 1.001 + 1.003)
    assert _pieces(loop) == ["q0", "q1", "q2"]
    after = went.heard.executions[-1]
    assert [s.task for s in after.run.steps.values()] == ["carried"] * 3 + ["mixture"]
    assert [e.run.rounds for e in went.heard.executions] == [1, 2, 3, 3]
    mean = loop.store.open(after.records["mix"]).table.to_pylist()[0]  # type: ignore[attr-defined]
    assert (mean["n"], mean["value"]) == (3, pytest.approx((1 + 2.001 + 3.004) / 3))
    assert {(run.deployment, run.status) for run in Runs(loop.store).newest("loop")} == {("nightly", "done")}
    assert loop.history.after == 3
    assert loop.tick().ticked.made == [4]
    assert [len(h.every["policy"]) for n, h in loop.history.heads.items() if n] == [1, 2, 3, 4]
    seen = loop.history.head.values["seen"]
    assert seen
    assert loop.store.index.of_content(seen.digest)[0].rows == 4


def test_rejected_rounds_use_prompts_up_leave_the_head_and_end_in_a_stall(loop: Loop) -> None:
    loop.tick()
    before = loop.history.head
    went = loop.tick({"gain": -1.0}, rounds=5)
    assert loop.verdicts() == ["accepted", "rejected", "rejected", "rejected"]
    assert (went.ticked.status, went.ticked.stalled, went.ticked.made) == ("done", True, [2, 3, 4])
    assert "is stalled: 3 consecutive rejections with these parameters since the head moved" in went.heard.messages[-1]
    assert "round 4 of loop/nightly rejected" in went.heard.messages[-2]
    assert loop.history.stalled
    assert loop.history.head == before
    assert _pieces(loop) == ["q0", "q1", "q2", "q3"]
    runs = Runs(loop.store).ids()
    again = loop.tick({"gain": -1.0})
    assert (again.ticked.made, again.ticked.stalled, Runs(loop.store).ids()) == ([], True, runs)
    assert "is stalled: 3 consecutive rejections" in again.heard.messages[-1]
    forced = loop.tick({"gain": -1.0}, force=True)
    assert (forced.ticked.made, forced.ticked.stalled, loop.history.stalled) == ([5], False, True)
    assert "is stalled: 4 consecutive rejections" in forced.heard.messages[-1]
    assert loop.tick({"gain": 2.0}).ticked.made == [6]
    assert loop.verdicts()[4:] == ["rejected", "accepted"]
    shown = 0 + 5  # of rejected rounds, nothing is carried
    assert loop.size() == pytest.approx(1 + 2 * (1 + shown / 1000))


def test_without_a_gate_every_round_is_accepted(loop: Loop) -> None:
    always = Loop(loop.project, "always-on")
    assert always.tick({"gain": -1.0}, rounds=2).ticked.made == [1, 2]
    assert always.verdicts() == ["accepted", "accepted"]
    assert always.history.rounds[0].finished
    assert always.history.rounds[0].finished.gate is None
    assert loop.verdicts() == [], "each deployment has a ledger of its own"


def test_a_gate_that_measures_no_win_rate_leaves_the_round_unfinished_until_there_is_another(loop: Loop) -> None:
    """Its task declares the metric, and the report lacks it."""
    file, tasks = loop.project / "pipelines.yaml", loop.project / "tasks" / "loop.py"
    tasks.write_text(f"{tasks.read_text()}\n\nnote_metrics = larger_metrics\n")
    file.write_text(
        PIPELINES.replace("gate: better", "gate: count").replace(
            "        steps:\n          gate_prompts",
            "        steps:\n          count: {task: note, prompts: batch}\n          gate_prompts",
        )
    )
    with pytest.raises(DataError, match="the gate 'count' of loop/nightly reports no win rate; it has eval/gold"):
        loop.tick()
    assert loop.verdicts() == ["unfinished"]
    file.write_text(PIPELINES)
    assert loop.tick().ticked.made == [1, 2]


def test_one_rolls_back_to_an_accepted_round_and_numbers_go_on(loop: Loop) -> None:
    loop.tick(rounds=2)
    lines = loop.continuing.ledger.path.read_bytes()
    with pytest.raises(SpecError, match=r"round 7 of loop/nightly left no head; choose one of \[0, 1, 2\]"):
        roll_back(loop.store, "loop", 7)
    assert "the next tick is round 3 and starts from what round 1 left" in roll_back(loop.store, "loop/nightly", 1)
    assert loop.continuing.ledger.path.read_bytes().startswith(lines)
    loop.tick()
    assert loop.size() == pytest.approx(1 + 1 + (0 + 2) / 1000)
    assert [len(several) for several in loop.history.head.every.values()] == [2]
    with loop.continuing.ledger.lock(), pytest.raises(SpecError, match="a tick of loop/nightly is at work"):
        roll_back(loop.store, "loop", 1)


def test_a_flow_run_that_is_called_again_makes_no_more_rounds_than_it_was_asked_for(loop: Loop) -> None:
    """Asked for three rounds it was suspended in its second one; called again it has one new round to make."""
    loop.tick(rounds=2)
    assert loop.tick({"count": 1, "gain": 5.0}).ticked.status == "failed"
    runs = Runs(loop.store)
    for round, flow_run in zip(loop.history.rounds, ("another", "this", "this"), strict=True):
        run = runs.load(round.begun.run)
        run.links["prefect"] = flow_run
        runs.save(run)
    assert [rounds_begun_in(loop.continuing, name) for name in ("this", "another", "none")] == [2, 0, 0]
    file = loop.project / "pipelines.yaml"
    file.write_text(PIPELINES.replace("table: prompts, index: $round}", "table: prompts, index: $round, wrap: true}"))
    assert loop.tick(rounds=0).ticked.made == [3], "what is left is finished"
    assert loop.tick(rounds=0).ticked.made == []


def test_a_failed_round_stays_begun_and_is_finished_first_with_its_own_parameters(loop: Loop) -> None:
    loop.tick()
    went = loop.tick({"count": 1, "gain": 5.0}, rounds=2)
    assert (went.ticked.status, went.ticked.made, loop.verdicts()) == ("failed", [], ["accepted", "unfinished"])
    [error] = went.heard.executions[-1].errors.values()
    assert "used up at piece 2" in str(error)
    assert "to give it up: alignflow rounds loop/nightly --back-to 1" in went.heard.messages[-1]
    assert loop.tick({"gain": 1.0}).ticked.status == "failed"
    assert len(loop.history.rounds[-1].runs) == 2
    file = loop.project / "pipelines.yaml"
    file.write_text(PIPELINES.replace("table: prompts, index: $round}", "table: prompts, index: $round, wrap: true}"))
    went = loop.tick({"gain": 1.0})
    assert went.ticked.made == [2, 3], "the one that was left, then the one that was asked for"
    assert loop.size() == pytest.approx(1 + 5 + 1 + 2 / 1000)
    assert dict(loop.history.rounds[1].begun.overrides) == {"count": 1, "gain": 5.0}


WRONG = {
    "did you mean 'grow'": [("{task: grow,", "{task: grwo,")],
    "(round 1) holds no 'extra', which prev.extra names now: go back to the start": [
        ("prev.seen, batch]", "prev.seen, batch, prev.extra]"), ("seen: null}", "seen: null, extra: prompts}"),
        ("batch:  {", "extra:  prev.extra\n        batch:  {"),
    ],
    "(round 1) holds 'seen' as Prompts, and the file makes it Report now": [
        ("{task: pool, tables: [prev.seen, batch]}", "{task: note, prompts: batch, old: prev.seen}"),
        ("data: seen,", "data: batch,"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_a_pipeline_that_no_longer_fits_is_refused_before_any_work(message: str, loop: Loop) -> None:
    loop.tick()
    before, runs = loop.continuing.ledger.path.read_bytes(), Runs(loop.store).ids()
    text = PIPELINES
    for old, new in WRONG[message]:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (loop.project / "pipelines.yaml").write_text(text)
    with pytest.raises(SpecError, match=re.escape(message)):
        loop.tick()
    assert (Runs(loop.store).ids(), (loop.store.root / "ledger" / "loop.nightly.jsonl").read_bytes()) == (runs, before)


def test_the_error_of_an_unfinished_round_that_no_longer_compiles_shows_how_to_give_it_up(loop: Loop) -> None:
    loop.tick({"count": 1}, rounds=2)
    file = loop.project / "pipelines.yaml"
    file.write_text(PIPELINES.replace("count: 60", "number: 60").replace("$count", "$number"))
    with pytest.raises(SpecError, match="round 2 of loop/nightly is unfinished and cannot be made as it began") as e:
        loop.tick()
    assert "has no parameter 'count'" in str(e.value)
    roll_back(loop.store, "loop", 1)
    assert loop.tick().ticked.made == [3]


def test_a_carried_value_that_is_gone_is_an_error_before_any_work(loop: Loop) -> None:
    loop.tick()
    carried = loop.history.head.values["policy"]
    assert carried
    shutil.rmtree(loop.store.root / carried.kind / carried.digest)
    runs = Runs(loop.store).ids()
    with pytest.raises(DataError, match=f"prev.policy was Policy {carried.digest}, which is gone; alignflow rounds"):
        loop.tick()
    assert (Runs(loop.store).ids(), loop.history.last) == (runs, 1)


def test_a_result_made_again_with_other_bytes_does_not_break_the_head(loop: Loop) -> None:
    """The plain pipeline's policy@1 has the key of the first tick's; `--fresh` puts another result there."""
    loop.tick()
    carried = loop.history.head.values["policy"]
    assert carried
    record = next(r for r in loop.store.records() if r.content == carried.digest)
    other = loop.store.partial(record.key) / "output"
    other.mkdir(parents=True)
    (other / "config.json").write_text('{"size": 40}')
    with loop.store.lock(record.key):
        loop.store.publish(Key(record.key, record.parts), Policy(other), fresh=True)
    assert loop.store.index.of_content(carried.digest) == []
    assert not [f for f in collect_garbage(loop.store) if f.path.startswith("Policy")]
    assert loop.tick().ticked.made == [2]
    assert loop.size() == pytest.approx(1 + 1 + (0 + 1) / 1000)
    assert [len(several) for several in loop.history.head.every.values()] == [2]


def test_steps_after_a_round_that_failed_are_run_before_any_new_round(loop: Loop) -> None:
    file, whole = loop.project / "pipelines.yaml", PIPELINES
    file.write_text(whole.replace("params: {rounds: 3,", "params: {taken: 9, rounds: 3,").replace(
        "      mix: {task: mixture,", "      left: {task: piece, table: prompts, index: $taken, size: 30}\n"
        "      note: {task: note, prompts: left}\n      mix: {task: mixture,"
    ))  # fmt: skip
    went = loop.tick(rounds=2)
    assert (went.ticked.status, went.ticked.made, loop.history.after) == ("failed", [1, 2], 0)
    assert "the steps `after` round 2 of loop/nightly are not done" in went.heard.messages[-1]
    again = loop.tick()
    assert (again.ticked.status, again.ticked.made, loop.verdicts()) == ("failed", [], ["accepted"] * 2)
    third = loop.tick({"taken": 2})
    assert "the steps `after` round 2 of loop/nightly were left undone: they are run first" in third.heard.messages[0]
    assert (third.ticked.status, third.ticked.made, loop.history.after) == ("done", [3], 3)
    behind = [e.event for e in loop.continuing.ledger.events() if e.event in ("begun", "after")]
    assert behind == ["begun", "begun", "after", "begun", "after"]


def test_a_value_that_is_gone_is_an_error_before_the_steps_after_begin(loop: Loop) -> None:
    loop.tick(rounds=2)
    [first, _] = loop.history.head.every["policy"]
    shutil.rmtree(loop.store.root / first.kind / first.digest)
    loop.continuing.ledger.path.write_text("".join(
        line for line in loop.continuing.ledger.path.read_text().splitlines(True) if '"after"' not in line
    ))  # fmt: skip
    runs = Runs(loop.store).ids()
    with pytest.raises(DataError, match=f"every.policy.* was Policy {first.digest}, which is gone; alignflow rounds"):
        loop.tick()
    assert (Runs(loop.store).ids(), loop.history.last) == (runs, 2)


def test_a_list_that_the_file_stopped_naming_cannot_be_named_again(loop: Loop) -> None:
    """It would lack the rounds in between."""
    loop.tick()
    file, named = loop.project / "pipelines.yaml", PIPELINES
    file.write_text(named.replace("policies: every.policy", "policies: [last.policy]"))
    loop.tick()
    assert loop.history.head.every == {}
    file.write_text(named)
    with pytest.raises(SpecError, match=r"\(round 2\) holds no 'policy', which every.policy names now: go back"):
        loop.tick()


def test_a_parameter_that_only_counts_rounds_is_no_parameter_of_a_tick(loop: Loop) -> None:
    assert list(loop.continuing.form().parameters) == ["gain", "pause", "count"]
    with pytest.raises(SpecError, match="makes one round per tick, whatever 'rounds' is"):
        loop.tick({"rounds": 3})


def test_a_wrong_parameter_is_refused_before_an_unfinished_round_is_finished(loop: Loop) -> None:
    loop.tick({"count": 1}, rounds=2)
    runs = Runs(loop.store).ids()
    with pytest.raises(SpecError, match=r"did you mean 'gain'"):
        loop.tick({"gian": 2.0})
    assert Runs(loop.store).ids() == runs


def test_prompts_that_trained_a_carried_policy_are_refused_many_ticks_later(loop: Loop) -> None:
    """Round 1 trains on q0. In round 3 its table is behind two carried policies, and nowhere in the tick's graph."""
    text = PIPELINES.replace("data: seen,", "data: batch,").replace("pause: 0.0,", "pause: 0.0, asked: 50,").replace(
        "        report:", "        asked:  {task: piece, table: prompts, index: $asked}\n"
        "        message:   {task: answer, policy: policy, prompts: asked}\n"
        "        clean:  {task: checked, completions: message}\n        report:",
    ).replace("        seen:   {task: pool, tables: [prev.seen, batch]}\n", "").replace(", seen: null", "")  # fmt: skip
    (loop.project / "pipelines.yaml").write_text(text)
    assert loop.tick(rounds=2).ticked.made == [1, 2]
    went = loop.tick({"asked": 1})
    [error] = went.heard.executions[-1].errors.values()
    assert isinstance(error, DataError)
    assert "1 of 1 evaluation prompts also trained what is measured (piece " in str(error)
    assert went.heard.executions[-1].run.steps["prev.policy"].task == "carried"
    roll_back(loop.store, "loop", 2)
    assert loop.tick({"asked": 49}).ticked.made == [4]


def test_a_value_of_an_earlier_tick_does_not_count_as_a_cached_step(loop: Loop) -> None:
    """Round 2 finds base, prompts, heldout and gate_prompts; makes batch, seen, policy, report, gate_batch, better."""
    loop.tick()
    execution = loop.tick().heard.executions[0]
    assert [s.id for s in execution.run.steps.values() if s.carried]
    assert "6 steps run, 4 cached\n" in printed(lambda console: print_outcome(console, loop.store, execution))
