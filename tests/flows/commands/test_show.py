"""What people and scripts are shown of runs and artifacts."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from flows.commands.options import Sort
from flows.commands.samples import before_and_after
from flows.commands.show import show_json, show_text
from flows.reporting.results import (
    Estimate,
    ResultRow,
    RunResults,
    costs,
    run_results,
    table,
    tables,
)
from flows.store.finished import finished_steps
from flows.store.records import Record
from flows.store.store import Store
from tasks.contract import JSON, DataError, SpecError
from tasks.kinds import Completions, ImplicitReward, Oracle, Policy, WinProbs
from tests.flows.commands.processes import printed
from tests.flows.evaluated import of_task
from tests.flows.fabricated import BASE, READ, Fabricated, fabricate, report
from tests.flows.store.made import model, put


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    return fabricate(tmp_path_factory.mktemp("shown"), hits=["base"])


def _text(made: Fabricated, ref: str, rows: int = 5) -> str:
    return printed(lambda console: show_text(made.store, ref, rows, console), width=200)


def _lines(show: Callable[[Console], object]) -> list[list[str]]:
    return [line.split() for line in printed(show).splitlines() if line.strip()]


def _results(made: Fabricated):  # type: ignore[no-untyped-def]
    return run_results(made.store, finished_steps(made.store, made.run))


def test_the_headline_is_by_round_and_the_policy_against_itself_is_the_floor(made: Fabricated) -> None:
    found = _results(made)
    assert found.base_check.metrics["eval/win_rate"].value == 0.49
    assert [(r.label, r.metrics["eval/win_rate"].value) for r in found.rows] == [("round 1", 0.62), ("round 2", 0.71)]
    assert found.others == ()


def test_an_evaluation_against_another_policy_is_no_floor(made: Fabricated) -> None:
    without = [s for s in finished_steps(made.store, made.run) if s.name != "base_check"]
    assert run_results(made.store, without).base_check is None


def test_costs_count_samples_queries_tokens_and_seconds_of_a_round(made: Fabricated) -> None:
    second = [s for s in finished_steps(made.store, made.run) if s.round == 2]
    assert costs(second) == {
        "cost/seconds": 2.0 * len(second), "cost/samples": 2.0, "cost/oracle_queries": 4.0, "cost/tokens": 1000.0,
    }  # fmt: skip


def test_prompts_that_trained_are_a_warning_beside_the_number_where_they_were_allowed(made: Fabricated) -> None:
    steps = finished_steps(made.store, made.run)
    few = "base, round 1, round 2: only 2 prompts (fewer than 30): other prompts may give quite other numbers"
    assert run_results(made.store, steps).warnings() == [few]
    for step in steps:
        if step.addresses[0] == "report@2":
            step.record.parts["params"]["allow_seen"] = True  # type: ignore[index]
    warnings = run_results(made.store, steps).warnings()
    assert len(warnings) == 2
    assert warnings[1].startswith("round 2: 2 of 2 evaluation prompts also trained what is measured")


def test_notices_of_steps_are_shown_with_the_run_and_in_json(made: Fabricated) -> None:
    assert f"  - heldout: {READ}\n" in _text(made, "last")
    data = json.loads(json.dumps(show_json(made.store, "last", 5)))
    assert {s["step"]: s["notices"] for s in data["steps"] if s["notices"]} == {"heldout": [READ]}


def test_a_notice_of_several_steps_is_shown_once_with_the_steps_it_belongs_to() -> None:
    steps = ("pairs", *(f"round {n} · pairs" for n in range(1, 6)))
    found = RunResults(None, (), (), (*((s, "read as pairs") for s in steps), ("prompts", "3 rows skipped")))
    assert found.notices() == [
        "pairs, round 1 · pairs, round 2 · pairs, round 3 · pairs and 2 more: read as pairs", "prompts: 3 rows skipped"
    ]  # fmt: skip


def test_the_table_puts_base_against_base_beside_the_rounds(made: Fabricated) -> None:
    lines = _lines(lambda console: console.print(table(_results(made))))
    assert lines[3][:5] == ["base", "vs.", "base", "2", "0.490"]
    assert lines[4][:6] == ["round", "1", "2", "0.620", "(0.590–0.650)", "2.00"]
    assert lines[5][-3:] == ["1.00", "12.0", "50.0%"]


def _estimate(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half, 100, "probability")


def test_other_evaluations_have_a_table_of_their_own_with_what_changed() -> None:
    """A reward model of each round on held-out pairs, as `reward_accuracy` measures it with `before`."""
    measured = {"eval/accuracy": _estimate(0.7, 0.02), "eval/accuracy_change": _estimate(-0.004, 0.01)}
    measured = of_task("reward_accuracy", measured)
    headline = ResultRow("round 1", 1, of_task("measure", {"eval/win_rate": _estimate(0.6, 0.03)}))
    found = RunResults(None, (headline,), (ResultRow("round 1 · reward_report", 1, measured),))
    lines = _lines(lambda console: console.print(*tables(found), sep="\n"))
    assert lines[3] == ["round", "1", "100", "0.600", "(0.570–0.630)"]
    assert lines[4] == ["accuracy", "change"]
    assert lines[7] == [
        "round", "1", "·", "reward_report", "100", "0.700", "(0.680–0.720)", "−0.004", "(−0.014", "to", "+0.006)"
    ]  # fmt: skip
    assert [list(map(str, c.cells)) for c in table(found).columns][-1] == ["–", "−0.004 (−0.014 to +0.006)"]
    assert tables(RunResults(None, (headline,), (ResultRow("note", None, {}),)))[1:] == []


def test_a_report_shows_answers_before_and_after_with_scores_and_who_wins(made: Fabricated) -> None:
    found = before_and_after(made.store, made.records["report@2"], 5)
    swan, fox = found.pairs
    assert (swan.before.text, swan.after.text) == (BASE["swan"], "good question ! the swan lives in the swamp . @2")
    assert (swan.after.score, swan.p) == (2.5, 0.9)
    assert (fox.after.score, fox.p, fox.after.finished) == (-0.5, 0.25, False)


@pytest.mark.parametrize(
    ("sort", "shown"), [(Sort.FIRST, [0.9]), (Sort.BEST, [0.9]), (Sort.WORST, [0.25])]
)  # fmt: skip
def test_the_best_or_worst_prompts_can_be_shown(made: Fabricated, sort: Sort, shown: list[float]) -> None:
    found = before_and_after(made.store, made.records["report@2"], 1, sort)
    assert [pair.p for pair in found.pairs] == shown


def test_random_prompts_are_the_same_every_time(made: Fabricated) -> None:
    first, again = (before_and_after(made.store, made.records["report@2"], 2, Sort.RANDOM) for _ in range(2))
    assert first == again
    assert {pair.p for pair in first.pairs} == {0.9, 0.25}


def test_prompts_cannot_be_sorted_where_there_are_no_answers(made: Fabricated) -> None:
    with pytest.raises(SpecError, match=r"'last:heldout' \(Prompts\) has no answers before and after"):
        show_json(made.store, "last:heldout", 1, Sort.BEST)


def test_p_is_of_the_pair_that_is_shown_and_not_of_all_answers_to_its_prompt(tmp_path: Path) -> None:
    """Two answers a side to one prompt: the oracle answered nothing about the first pair, so the next one is shown.

    Its P: asked as (mine, base) 0.8 and as (base, mine) 0.4, so (0.8 + 0.6)/2 = 0.7.
    """
    store = Store(tmp_path / "artifacts")
    found = before_and_after(store, evaluated_answers(store), 5)
    [pair] = found.pairs
    assert (pair.after.text, pair.before.text, pair.p) == ("mine 0", "base 1", pytest.approx(0.7))
    assert found.oracle == "toy_gold"


def evaluated_answers(store: Store) -> Record:
    """The report of an evaluation of two answers a side to one prompt."""
    (store.root.parent / "oracle").mkdir()
    (store.root.parent / "oracle" / "oracle.json").write_text("{}")
    choice: JSON = {"choice": "oracles/toy_gold", "params": {}}
    gold = put(store, Oracle(store.root.parent / "oracle"), "load_oracle", oracle=choice)
    mine, base = (put(store, answers(side), "sample", side=side) for side in ("mine", "base"))
    ps = {("mine-0", "base-0"): None, ("mine-0", "base-1"): 0.8, ("base-1", "mine-0"): 0.4, ("mine-1", "base-0"): 0.1}
    asked = pa.table({
        "prompt_id": ["swan"] * len(ps), "a_id": [a for a, _ in ps], "b_id": [b for _, b in ps],
        "p": pa.array(list(ps.values()), pa.float64()),
    })  # fmt: skip
    sides = {"completions": [mine], "others": [base]}
    judged = put(store, WinProbs.of(asked), "compare", {**sides, "oracle": [gold]})
    return put(store, report(0.6, 1.0, 0.5), "measure", {**sides, "win_probs": [judged]})


def answers(side: str) -> Completions:
    """Two answers to one prompt."""
    return Completions.of(pa.table({
        "prompt_id": ["swan"] * 2, "prompt": [[{"role": "user", "content": "where does the swan live ?"}]] * 2,
        "completion_id": [f"{side}-{k}" for k in (0, 1)], "completion": [f"{side} {k}" for k in (0, 1)],
        "stream": [0] * 2, "k": [0, 1], "token_logps": [[-1.0]] * 2, "finish_reason": ["stop"] * 2,
    }))  # fmt: skip


def test_a_report_shows_all_its_numbers_above_the_answers(made: Fabricated) -> None:
    text = _text(made, "last:report")
    lines = [line.split() for line in text.splitlines()]
    assert ["eval/win_rate", "0.7100", "0.6800", "–", "0.7400", "2", "probability"] in lines
    assert ["eval/length", "12.0000", "11.0000", "–", "13.0000", "2", "tokens"] in lines
    assert text.index("eval/win_rate") < text.index("Answers before and after")
    data = json.loads(json.dumps(show_json(made.store, "last:report", 5)))
    assert data["metrics"]["eval/kl"]["value"] == 1.0


def test_a_policy_and_its_samples_show_the_evaluation_that_measured_them(made: Fabricated) -> None:
    for ref in ("policy@1", "report/sample@1"):
        found = before_and_after(made.store, made.records[ref], 1)
        assert found.report == made.records["report@1"].content
        assert [p.after.text for p in found.pairs] == ["good question ! the swan lives in the swamp . @1"]
    assert before_and_after(made.store, made.records["heldout"], 1) is None


def test_the_base_policy_shows_no_evaluation_of_another_policy(made: Fabricated) -> None:
    assert before_and_after(made.store, made.records["base"], 1) is None


def test_text_has_path_record_lineage_and_both_answers(made: Fabricated) -> None:
    text = _text(made, "last:report")
    assert str(made.store.root / made.records["report@2"].path) in text
    assert "completions: sample → Completions" in text
    assert "policy: fit → Policy" in text
    assert "go away ." in text
    assert "good question ! the swan lives in the swamp . @2" in text
    assert "0.90" in text


def test_a_run_in_json_lists_every_step_with_key_content_seconds_and_hit(made: Fabricated) -> None:
    data = json.loads(json.dumps(show_json(made.store, "last", 5)))
    by_step = {s["step"]: s for s in data["steps"]}
    assert list(by_step) == list(made.graph.nodes)
    for id, record in made.records.items():
        assert (by_step[id]["key"], by_step[id]["content"], by_step[id]["seconds"]) == (record.key, record.content, 2.0)
        assert by_step[id]["hit"] == (id == "base")
    assert data["results"][2]["metrics"]["eval/win_rate"] == {
        "value": 0.71, "low": pytest.approx(0.68), "high": pytest.approx(0.74), "n": 2, "unit": "probability",
    }  # fmt: skip


def test_an_artifact_in_json_has_its_record_first_rows_and_comparison(made: Fabricated) -> None:
    by_digest = made.records["report/sample@1"].content[:10]
    data = json.loads(json.dumps(show_json(made.store, by_digest, 1)))
    assert data["kind"] == "Completions"
    assert [r["completion_id"] for r in data["first_rows"]] == ["policy@1-swan"]
    assert len(data["compared"]["pairs"]) == 1


def test_a_damaged_report_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    shown = fabricate(tmp_path)
    damaged = shown.store.root / shown.records["report@2"].path / "table.arrow"
    damaged.chmod(0o600)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"table.arrow is damaged .*alignflow verify"):
        _text(shown, f"{shown.run.id}:report@2")


def test_a_scorer_is_shown_with_its_members_by_role(store: Store, tmp_path: Path) -> None:
    folders = [model(tmp_path / name, name) for name in ("tuned", "base")]
    policy, ref = (put(store, Policy(folder), f"read_{folder.name}") for folder in folders)
    handles = {"policy": [store.open(policy)], "ref": [store.open(ref)]}
    reward = put(store, ImplicitReward.made_of(handles, {"beta": 1.0}), "reward", {"policy": [policy], "ref": [ref]})
    lines = _lines(lambda console: show_text(store, reward.content, 5, console))
    [shown] = [" ".join(line) for line in lines if line[:2] == ["made", "of"]]
    assert f"made of policy: Policy {policy.content} in {folders[0]}; ref: Policy {ref.content}" in shown


def test_an_adapter_is_shown_as_one_with_its_base_or_why_that_does_not_serve(store: Store, tmp_path: Path) -> None:
    folder = model(tmp_path / "base", "weights")
    base = put(store, Policy(folder), "read")
    (model(tmp_path / "fitted", "A") / "adapter.json").write_text(f'{{"base": "{base.content}"}}')
    adapter = put(store, Policy(tmp_path / "fitted"), "fit", {"policy": [base]})

    def lines() -> list[list[str]]:
        return _lines(lambda console: show_text(store, adapter.content, 5, console))

    assert ["adapts", "Policy", base.content, "in", str(folder)] in lines()
    assert show_json(store, adapter.content, 5)["refers_to"] == [base.content]  # type: ignore[call-overload, index]
    (folder / "model.safetensors").write_text("other weights")
    [shown] = [" ".join(line) for line in lines() if line[0] == "adapts"]
    assert shown.endswith(f"in {folder}, and that folder has changed: put it back as it was")
