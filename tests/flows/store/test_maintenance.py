import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from flows.commands.accept import accept_result
from flows.store.content import fingerprint
from flows.store.keys import Key, digest_of
from flows.store.maintenance import collect_garbage, verify_store
from flows.store.store import Store
from tasks.answers.store import Answer, AnswerStore
from tasks.contract import SpecError
from tasks.kinds import Policy
from tasks.people.survey import survey_file
from tests.flows.store.made import key_of, model, prompts, publish, put
from tests.tasks.people.asked import survey_of


def edited(key: Key, **parts: object) -> Key:
    changed = {**key.parts, **parts}
    return Key(digest_of(changed), changed)  # type: ignore[arg-type]


def _with_code(digest: str) -> Key:
    """A key of the task `load` whose code has this digest."""
    return replace(edited(key_of(), code=[["load", digest]]), code={"tasks/load.py::load": digest})


def test_an_old_result_stands_for_a_new_key_and_the_record_says_so(store: Store) -> None:
    before, new = (_with_code(digest) for digest in "12")
    old = publish(store, before, prompts("a"))
    record = accept_result(store, new, old)
    assert store.record_of(new.digest) == record
    assert (record.content, record.key) == (old.content, new.digest)
    assert record.accepted["from"] == old.key
    assert record.accepted["because"] == ["`tasks/load.py::load` changed"]
    assert store.record_of(old.key) == old


def test_only_an_edit_of_code_can_be_accepted_and_only_for_an_intact_result(store: Store) -> None:
    old = put(store, prompts("a"), k=4)
    with pytest.raises(SpecError, match="only an edit of code can be accepted, but `k` changed 4 → 5"):
        accept_result(store, key_of(k=5), old)
    new = edited(key_of(k=4), code={"x": "1"})
    accept_result(store, new, old)
    with pytest.raises(SpecError, match="has a result of its own already"):
        accept_result(store, new, old)
    (store.root / old.path / "table.arrow").write_bytes(b"noise")
    with pytest.raises(SpecError, match="was damaged"):
        accept_result(store, edited(key_of(k=4), code={"x": "2"}), old)


def test_verify_reads_what_a_lookup_would_trust_by_its_stat(store: Store) -> None:
    key = key_of("fit")
    large = store.partial(key.digest) / "output" / "model.safetensors"
    large.parent.mkdir(parents=True)
    with large.open("wb") as f:
        f.truncate(65 * 2**20)
    record = publish(store, key, Policy(large.parent))
    good = put(store, prompts("a"))
    assert store.record_of(record.key)
    assert verify_store(store) == []
    file = store.root / record.path / "model.safetensors"
    before = store.contents.file(file)
    with file.open("r+b") as f:
        f.write(b"x")
    known = [*fingerprint(file.stat()), before]  # a disk that loses a bit leaves the stat as it was
    store.contents._known[str(file)] = known
    assert store.record_of(record.key)
    (damage,) = verify_store(store)
    assert damage.record == record
    assert f"set aside in damaged/Policy-{record.content}" in damage.trouble
    assert store.record_of(record.key) is None
    assert store.record_of(good.key)


def test_verify_finds_a_record_that_is_none_and_content_that_is_gone(store: Store) -> None:
    broken, gone, good = put(store, prompts("a"), n=1), put(store, prompts("b"), n=2), put(store, prompts("c"), n=3)
    (store.root / "keys" / f"{broken.key}.json").write_text('{"key": ')
    shutil.rmtree(store.root / gone.path)
    found = {damage.what: damage.trouble for damage in verify_store(store)}
    assert found["a record"].startswith(f"keys/{broken.key}.json")
    assert list((store.root / "damaged").glob(f"record-{broken.key}-*"))
    assert "is missing" in found[f"Prompts {gone.content[:12]} (load)"]
    assert len(found) == 2
    assert store.record_of(good.key)


def test_gc_takes_what_nothing_names_and_nothing_else(store: Store, tmp_path: Path) -> None:
    kept = put(store, prompts("a"))
    outside = model(tmp_path / "outside", "weights")
    local = put(store, Policy(outside), "read_policy")
    orphan = put(store, prompts("b"), seed=1)
    (store.root / "keys" / f"{orphan.key}.json").unlink()
    unfinished, stale = store.partial(key_of(seed=2).digest), store.partial(kept.key)
    for folder in (unfinished, stale):
        folder.mkdir(parents=True)
        (folder / "shard").write_text("12345")
    (store.root / "keys" / ".x.json.1.tmp").write_text("{")
    os.utime(store.root / "keys" / ".x.json.1.tmp", (0, 0))
    (store.root / "keys" / ".y.json.2.tmp").write_text("{")  # somebody writes it now
    (store.root / "notes").mkdir()
    planned = collect_garbage(store, dry=True)
    assert {(f.path, f.why) for f in planned} == {
        (f"Prompts/{orphan.content}", "no record names it"), (f"partial/{kept.key}", "its step is finished"),
        ("keys/.x.json.1.tmp", "half written"),
    }  # fmt: skip
    assert next(f.size for f in planned if f.path.startswith("partial")) == 5
    assert stale.exists()
    assert collect_garbage(store) == planned
    assert collect_garbage(store) == []
    assert store.record_of(kept.key)
    assert store.record_of(local.key)
    assert (unfinished / "shard").exists()
    assert (store.root / "notes").exists()
    assert (outside / "model.safetensors").exists()


def test_gc_leaves_the_folder_of_a_step_that_is_being_run_again(store: Store) -> None:
    record = put(store, prompts("a"))
    store.partial(record.key).mkdir(parents=True)
    with store.lock(record.key):
        assert collect_garbage(store) == []
    assert [f.path for f in collect_garbage(store)] == [f"partial/{record.key}"]


def test_gc_removes_a_reference_to_a_local_model_and_never_the_model(store: Store, tmp_path: Path) -> None:
    outside = model(tmp_path / "outside", "weights")
    record = put(store, Policy(outside), "read_policy")
    (store.root / "keys" / f"{record.key}.json").unlink()
    assert [f.path for f in collect_garbage(store)] == [record.path.as_posix()]
    assert (outside / "model.safetensors").read_text() == "weights"


def test_gc_removes_damaged_content_once_it_was_set_aside(store: Store) -> None:
    record = put(store, prompts("a"))
    (store.root / record.path / "table.arrow").write_bytes(b"noise")
    assert store.record_of(record.key) is None
    assert [f.why for f in collect_garbage(store)] == ["damaged"]
    again = put(store, prompts("a"))
    assert store.record_of(again.key) == again


def test_answers_of_oracles_are_checked_and_never_collected(store: Store) -> None:
    answers = AnswerStore(store.root / "answers")
    answers.add("judge", {"q": Answer(0.5, "A"), "other": Answer(0.25, "B")})
    answers.close()
    assert verify_store(store) == collect_garbage(store) == []
    with sqlite3.connect(store.root / "answers" / "answers.db") as db:
        db.execute("update answers set raw = 'C' where question = 'q'")
    db.close()
    [damage] = verify_store(store)
    assert damage.what == "the answers of oracles"
    assert "the 1 answers that could be read" in damage.trouble
    assert [f.why for f in collect_garbage(store)] == ["damaged"]
    assert AnswerStore(store.root / "answers").find("judge", ["q", "other"]) == {"other": Answer(0.25, "B")}


def test_surveys_of_people_are_checked_and_never_collected(store: Store) -> None:
    answers = store.root / "answers"
    survey_of(answers).close()
    file = survey_file(answers, "round1")
    collect_garbage(store)
    assert verify_store(store) == []
    file.write_bytes(file.read_bytes()[:4096] + b"x" * 4096)
    (damage,) = verify_store(store)
    assert (damage.what, "round1.db is damaged" in damage.trouble) == ("a survey", True)
    collect_garbage(store)
    assert file.exists(), "judgements are not thrown away"
