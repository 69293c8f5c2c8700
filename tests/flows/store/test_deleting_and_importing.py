"""Results that no run, loop or tag needs are deleted; those of another store come here with their lineage."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from flows.commands.import_ import import_lines
from flows.commands.maintenance import gc_text
from flows.commands.show import show_json, show_text
from flows.commands.tag import tag_lines
from flows.reporting.results import read_report
from flows.rounds.history import Begun, CarriedValue, Finished
from flows.rounds.ledger import Ledger
from flows.store.lineage import training_tables
from flows.store.maintenance import collect_garbage, verify_store
from flows.store.records import Record
from flows.store.runs import Run, Runs
from flows.store.store import Store
from flows.store.tags import Tags
from tasks.contract import DataError, SpecError
from tasks.kinds import Policy
from tests.flows.fabricated import report
from tests.flows.store.made import key_of, model, pairs, prompts, publish, run_step


class Round(NamedTuple):
    """A run of one training, with its records."""

    run: Run
    pairs: Record
    policy: Record
    report: Record


def trained(store: Store, name: str, parents: dict[str, list[Record]]) -> Record:
    """A policy whose weights lie in the store."""
    key = key_of("fit", {port: [r.content for r in several] for port, several in parents.items()}, name=name)
    return publish(store, key, Policy(model(store.partial(key.digest) / "output", name)), parents=parents)


def ran(store: Store, name: str, policy: Record | None = None, *, status: str = "done") -> Round:
    """A run of `sppo` that trained `name`, from a policy of an earlier run if there is one."""
    table = publish(store, key_of("pairs", name=name), pairs(name))
    parents = {"data": [table], **({"policy": [policy]} if policy else {})}
    made = trained(store, name, parents)
    measured = publish(store, key_of("measure", name=name), report(0.6, 1.0, 0.1), parents={"completions": [table]})
    runs = Runs(store)
    run = runs.begin("sppo", {"name": name})
    run.steps = {id: run_step(id, r) for id, r in (("pairs", table), ("policy", made), ("report", measured))}
    runs.end(run, status)  # type: ignore[arg-type]
    return Round(run, table, made, measured)


def there(store: Store, *records: Record) -> list[bool]:
    return [(store.root / r.path).exists() for r in records]


def output(lines: Sequence[str]) -> str:
    return "\n".join(lines)


def test_the_models_of_old_runs_are_deleted_and_their_reports_stay(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ran(store, "a")
    second = ran(store, "b", first.policy)
    gc_text(store, dry=True, keep_runs=1)
    assert f"Policy/{first.policy.content}  (fit" in capsys.readouterr().out
    assert there(store, *first[1:], *second[1:]) == [True] * 6
    gc_text(store, dry=False, keep_runs=1)
    # The table that trained the first policy stays: a report on its prompts must still be refused for the second.
    assert there(store, *first[1:], *second[1:]) == [True, False, True, True, True, True]
    assert {e.content for e in training_tables(store, second.policy.content)} == {
        first.pairs.content, second.pairs.content,
    }  # fmt: skip
    lookup = store.lookup(first.policy.key)
    assert lookup.record is None
    assert lookup.reason.startswith("its content was deleted by `alignflow gc` on ")
    assert read_report(store, first.report)["eval/win_rate"].value == 0.6
    assert verify_store(store) == []
    assert collect_garbage(store) == []


def test_what_was_deleted_is_made_again_under_its_key(store: Store) -> None:
    first = ran(store, "a")
    ran(store, "b")
    gc_text(store, dry=False, keep_runs=1)
    again = trained(store, "a", {"data": [first.pairs]})
    assert (again.key, again.content, again.absent, again.remade) == (first.policy.key, first.policy.content, "", "")
    assert store.record_of(first.policy.key) == again


def test_runs_that_failed_do_not_push_out_the_last_one_that_was_done(store: Store) -> None:
    old, done, failed = ran(store, "a"), ran(store, "b"), [ran(store, f"f{n}", status="failed") for n in range(3)]
    gc_text(store, dry=False, keep_runs=1)
    assert there(store, old.policy, done.policy, *(f.policy for f in failed)) == [False, True, True, True, True]


def test_tags_and_the_heads_of_loops_keep_what_they_name(store: Store) -> None:
    tagged, head, old, _ = (ran(store, name) for name in "abcd")
    assert output([*tag_lines(store, f"{tagged.run.id}:policy", "best", delete=False)]) == (
        f"best is Policy {tagged.policy.content[:12]}"
    )
    ledger = Ledger(store, "sppo", "nightly")
    ledger.append(Begun(1, head.run.id, {}, {}, "pipelines.yaml", "c"))
    value = CarriedValue("Policy", head.policy.content)
    ledger.append(Finished(1, True, None, None, {}, {"policy": value}, {}))
    gc_text(store, dry=False, keep_runs=1)
    assert there(store, tagged.policy, head.policy, old.policy) == [True, True, False]


def test_nothing_is_deleted_while_a_run_is_at_work(store: Store) -> None:
    old, _ = ran(store, "a"), ran(store, "b")
    runs = Runs(store)
    running = runs.begin("sppo", {})
    with pytest.raises(SpecError, match=rf"runs are at work \({running.id}\)"):
        gc_text(store, dry=False, keep_runs=1)
    assert there(store, old.policy) == [True]
    runs.end(running, "done")
    gc_text(store, dry=False, keep_runs=2)
    assert there(store, old.policy) == [False]


def test_a_kill_between_the_record_and_its_content_leaves_content_for_the_next_gc(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = ran(store, "a"), ran(store, "b")
    with monkeypatch.context() as patched:
        patched.setattr("flows.store.maintenance._remove", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            gc_text(store, dry=False, keep_runs=1)
    assert store.record_of(old.policy.key)  # its bytes are there, and right
    assert [f.path for f in collect_garbage(store) if "Policy" in f.path] == [f"Policy/{old.policy.content}"]
    assert store.record_of(old.policy.key) is None


def test_a_tag_is_a_ref_moves_and_can_be_forgotten(store: Store) -> None:
    first, second = ran(store, "a"), ran(store, "b")
    assert output([*tag_lines(store, None, None, delete=False)]) == "no tags"
    tag_lines_of = lambda run: [*tag_lines(store, f"{run.run.id}:policy", "champion", delete=False)]  # noqa: E731
    tag_lines_of(first)
    assert Runs(store).find("champion").record == first.policy
    assert output(tag_lines_of(second)) == (
        f"champion is Policy {second.policy.content[:12]}, and {first.policy.content[:12]} before"
    )
    assert output([*tag_lines(store, None, None, delete=False)]).startswith(
        f"champion  {second.policy.content[:12]}  20"
    )
    [*tag_lines(store, "champion", None, delete=True)]
    with pytest.raises(SpecError, match="'champion' names nothing: give RUN:STEP, NAME/STEP, a tag or"):
        Runs(store).find("champion")
    with pytest.raises(SpecError, match="there is no tag 'champion'; tags: none"):
        [*tag_lines(store, "champion", None, delete=True)]


@pytest.mark.parametrize("name", ["beef", "0d71", "last", "a/b", "../up", "", "7b", "a" * 61])
def test_a_tag_that_could_be_another_ref_or_a_path_is_refused(store: Store, name: str) -> None:
    run = ran(store, "a")
    with pytest.raises(SpecError, match=r"cannot be a tag|leaves the store"):
        [*tag_lines(store, f"{run.run.id}:policy", name, delete=False)]
    assert list(Tags(store).all()) == []


def test_a_run_comes_with_its_results_and_the_tables_behind_them(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "theirs")
    first = ran(other, "a")
    second = ran(other, "b", first.policy)
    lines = [*import_lines(store, other.root, second.run.id)]
    assert lines[0] == f"run {second.run.id} of sppo: alignflow show {second.run.id}"
    assert lines[1:2] == ["4 results copied, 0 were here"]
    assert lines[2].startswith(f"1 models and log-probabilities behind them stay in {other.root}")
    assert there(store, *second[1:], first.pairs, first.policy) == [True, True, True, True, False]
    assert Runs(store).load(second.run.id).notices == [f"imported from {other.root}"]
    assert store.record_of(second.policy.key)
    assert {e.content for e in training_tables(store, second.policy.content)} == {
        first.pairs.content, second.pairs.content,
    }  # fmt: skip
    assert store.lookup(first.policy.key).reason == f"its content was left in {other.root}"
    assert verify_store(store) == []
    assert [*import_lines(store, other.root, second.run.id)][1] == "0 results copied, 4 were here"
    lines = [*import_lines(store, other.root, f"{first.run.id}:policy")]  # now the model itself
    assert lines[1] == "1 results copied, 1 were here"
    assert store.record_of(first.policy.key)


def test_a_result_that_is_here_with_another_content_stays(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "theirs")
    key = key_of("load")
    mine, theirs = publish(store, key, prompts("a")), publish(other, key, prompts("b"))
    lines = [*import_lines(store, other.root, theirs.content)]
    assert lines[-1] == f"1 of these have another content here, which stays: load {theirs.content[:8]}"
    assert store.record_of(key.digest) == mine


def test_damage_there_is_found_before_it_comes_here(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "theirs")
    run = ran(other, "a")
    (other.root / run.policy.path / "model.safetensors").write_text("noise")
    with pytest.raises(DataError, match=rf"Policy {run.policy.content[:12]} \(fit\) cannot be imported: its content"):
        [*import_lines(store, other.root, run.run.id)]
    assert store.record(run.policy.key) is None
    assert run.run.id not in Runs(store).ids()


def test_an_import_needs_another_folder_of_artifacts(store: Store, tmp_path: Path) -> None:
    run = ran(store, "a")
    with pytest.raises(SpecError, match="is no folder of artifacts"):
        [*import_lines(store, tmp_path / "nothing", "last")]
    with pytest.raises(SpecError, match="is this store itself"):
        [*import_lines(store, store.root, run.run.id)]


def test_a_result_that_was_deleted_is_shown_by_its_record(store: Store) -> None:
    old, _ = ran(store, "a"), ran(store, "b")
    gc_text(store, dry=False, keep_runs=1)
    printed = StringIO()
    show_text(store, f"{old.run.id}:policy", 5, Console(file=printed, width=200))
    assert "content   cannot be read: its content was deleted by `alignflow gc` on" in printed.getvalue()
    shown: Any = show_json(store, f"{old.run.id}:policy", 5)
    assert (shown["first_rows"], shown["compared"]) == ([], None)
    assert shown["absent"].startswith("deleted by")
    with pytest.raises(DataError, match=rf"Policy {old.policy.content[:12]} \(fit\) cannot be read: its content was"):
        store.open(store.record(old.policy.key))  # type: ignore[arg-type]
