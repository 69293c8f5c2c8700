import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from flows.store.records import Parent
from flows.store.store import HowMade, Store
from flows.system.json_files import read_json, write_json
from tasks.contract import DataError, SpecError
from tasks.kinds import Policy, Prompts
from tests.flows.store.made import key_of, model, prompts, publish, put


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_a_published_table_is_found_by_its_key_and_opened_by_its_kind(store: Store) -> None:
    key = key_of(source="toy")
    made = HowMade(2.5, {"workers": 2}, {"samples": 3.0}, [{"step": 1, "loss": 0.5}], ["two rows skipped"])
    record = publish(store, key, prompts("a", "b", "c"), made=made)
    found = store.record_of(key.digest)
    assert found == record
    assert (found.kind, found.task, found.rows, found.seconds) == ("Prompts", "load", 3, 2.5)
    assert (found.totals, found.curves, found.notices) == (
        {"samples": 3.0}, ({"step": 1, "loss": 0.5},), ("two rows skipped",)
    )  # fmt: skip
    handle = store.open(found)
    assert isinstance(handle, Prompts)
    assert handle.path == store.root / "Prompts" / found.content
    assert handle.digest == found.content
    assert handle.table.column("prompt_id").to_pylist() == ["a", "b", "c"]


def test_a_record_says_on_what_it_was_made_and_names_no_host(store: Store) -> None:
    record = put(store, prompts("a"))
    assert record.versions["python"] == sys.version.split()[0]
    assert record.hardware["cores"] == len(os.sched_getaffinity(0))
    assert os.uname().nodename not in json.dumps(record.as_json())


def test_parents_are_kept_by_port_in_list_order(store: Store) -> None:
    a, b = put(store, prompts("a"), size=1), put(store, prompts("b"), size=2)
    record = put(store, prompts("b", "a"), "concat", {"tables": [b, a]})
    assert store.record_of(record.key).parents == {"tables": (Parent(b.key, b.content), Parent(a.key, a.content))}


def test_a_model_built_in_the_workspace_is_moved_and_its_checkpoints_are_deleted(store: Store) -> None:
    key = key_of("fit")
    output = model(store.partial(key.digest) / "output", "weights")
    checkpoint = store.partial(key.digest) / "work" / "checkpoint.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_text("optimizer")
    inode = (output / "model.safetensors").stat().st_ino
    assert store.begun(key.digest)
    record = publish(store, key, Policy(output))
    assert (store.root / record.path / "model.safetensors").stat().st_ino == inode
    assert not store.partial(key.digest).exists()
    assert names(store.root / record.path) == ["model.safetensors"]


def test_a_local_model_is_referred_to_and_misses_when_it_changes_or_goes(store: Store, tmp_path: Path) -> None:
    outside = model(tmp_path / "checkpoint", "weights")
    record = put(store, Policy(outside), "read_policy")
    assert record.location == str(outside)
    assert (store.root / record.path).is_symlink()
    assert store.open(record).path.resolve() == outside
    model(outside, "changed")
    assert store.lookup(record.key).reason == f"{outside} has changed"
    assert (outside / "model.safetensors").read_text() == "changed"
    model(outside, "weights")
    assert put(store, Policy(outside), "read_policy").content == record.content
    assert store.record_of(record.key)
    (outside / "model.safetensors").unlink()
    outside.rmdir()
    assert store.lookup(record.key) == (None, f"{outside} is gone")


def test_a_part_of_another_artifact_is_published_without_a_second_copy_of_its_bytes(store: Store) -> None:
    key = key_of("fit")
    output = model(store.partial(key.digest) / "output", "last")
    model(output / "checkpoints" / "1", "first")
    whole = publish(store, key, Policy(output))
    inner = store.open(whole).path / "checkpoints" / "1"
    part = put(store, Policy(inner), "checkpoint_at", {"policy": [whole]})
    file = store.root / part.path / "model.safetensors"
    assert file.read_text() == "first"
    assert file.stat().st_ino == (inner / "model.safetensors").stat().st_ino
    assert not part.location
    assert store.record_of(whole.key)


def test_a_step_that_returns_its_input_shares_its_content(store: Store) -> None:
    first = put(store, prompts("a"))
    same = put(store, store.open(first), "take_batch", {"table": [first]})
    assert same.content == first.content
    assert same.key != first.key
    assert names(store.root / "Prompts") == [first.content]


def test_a_handle_on_nothing_or_on_the_workspace_itself_is_refused(store: Store) -> None:
    key = key_of("fit")
    store.partial(key.digest).mkdir(parents=True)
    with pytest.raises(DataError, match="not the workspace itself"):
        store.publish(key, Policy(store.partial(key.digest)))
    with pytest.raises(DataError, match="there is no directory"):
        store.publish(key, Policy(store.partial(key.digest) / "output"))
    assert store.record_of(key.digest) is None


def test_damaged_content_is_set_aside_named_and_made_again(store: Store) -> None:
    record = put(store, prompts("a", "b"))
    file = store.root / record.path / "table.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    look = store.lookup(record.key)
    assert look.record is None
    aside = names(store.root / "damaged")
    assert [a.rpartition("-")[0] for a in aside] == [f"Prompts-{record.content}"]
    assert look.reason == f"its content Prompts/{record.content} was damaged; set aside in damaged/{aside[0]}"
    assert store.lookup(record.key).reason == f"its content was damaged; set aside in damaged/{aside[0]}"
    again = put(store, prompts("a", "b"))
    assert (again.content, again.remade) == (record.content, "")
    assert store.record_of(record.key) == again


@pytest.mark.parametrize("harm", ["cut", "missing file", "extra file", "gone"])
def test_every_kind_of_damage_is_a_miss(store: Store, harm: str) -> None:
    record = put(store, prompts("a", "b"))
    folder = store.root / record.path
    file = folder / "table.arrow"
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif harm == "extra file":
        (folder / "more").write_text("x")
    else:
        file.unlink()
        if harm == "gone":
            folder.rmdir()
    assert store.record_of(record.key) is None
    assert store.record_of(put(store, prompts("a", "b")).key)


def test_content_that_comes_out_different_when_made_again_is_recorded(store: Store) -> None:
    record = put(store, prompts("a"))
    (store.root / record.path / "table.arrow").write_bytes(b"noise")
    assert store.record_of(record.key) is None
    again = put(store, prompts("b"))
    assert (again.key, again.remade) == (record.key, record.content)
    assert again.content != record.content


def test_a_key_keeps_its_first_content_unless_asked_afresh(store: Store) -> None:
    first = put(store, prompts("a"))
    assert put(store, prompts("b")) == first
    assert names(store.root / "Prompts") == [first.content]
    key = key_of()
    fresh = publish(store, key, prompts("b"), fresh=True)
    assert fresh.content != first.content
    assert fresh.remade == first.content


def test_good_bytes_take_the_place_of_content_damaged_under_another_key(store: Store) -> None:
    first = put(store, prompts("a"), seed=1)
    (store.root / first.path / "table.arrow").write_bytes(b"noise")
    second = put(store, prompts("a"), seed=2)
    assert second.content == first.content
    assert store.record_of(first.key)
    assert store.record_of(second.key)
    assert len(names(store.root / "damaged")) == 1


@pytest.mark.parametrize("change", [{"parts": {}}, {"key": "0" * 32}])
def test_a_record_whose_parts_do_not_make_its_key_is_a_miss(store: Store, change: dict[str, Any]) -> None:
    record = put(store, prompts("a"))
    file = store.root / "keys" / f"{record.key}.json"
    write_json(file, {**read_json(file), **change})
    assert store.lookup(record.key) == (None, "its record was damaged")


def test_every_bit_of_a_record_counts(store: Store) -> None:
    record = put(store, prompts("a"))
    file = store.root / "keys" / f"{record.key}.json"
    whole = file.read_bytes()
    chance = random.Random(0)
    for at in [*range(60), len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(100))]:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << chance.randrange(8)
        file.write_bytes(flipped)
        assert store.record(record.key) is None
    file.write_bytes(whole)
    assert store.record(record.key) == record


def test_a_record_with_a_field_of_another_type_is_a_miss(store: Store) -> None:
    record = put(store, prompts("a"))
    file = store.root / "keys" / f"{record.key}.json"
    write_json(file, {**read_json(file), "totals": [{"step": 1}]})
    assert store.lookup(record.key).record is None
    assert record.key not in store.index.entries()


@pytest.mark.parametrize("change", [{"content": "../../../etc"}, {"kind": "../keys"}])
def test_a_record_that_points_out_of_the_store_is_no_record(store: Store, change: dict[str, str]) -> None:
    record = put(store, prompts("a"))
    file = store.root / "keys" / f"{record.key}.json"
    write_json(file, {**read_json(file), **change})
    assert store.record_of(record.key) is None
    with pytest.raises(SpecError, match="leaves the store"):
        store.inside("runs", "../../x.json")


KILL = """
    import os, signal, sys
    from pathlib import Path
    from flows.store import store as module
    from flows.system import json_files as files
    from flows.store.store import Store
    from tests.flows.store.made import key_of, prompts

    at, calls = int(sys.argv[2]), 0

    def counted(function):
        def wrapper(*args, **options):
            global calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)
        return wrapper

    steps = ((os, "fsync"), (Path, "rename"), (Path, "replace"), (module, "_rows"), (module.shutil, "rmtree"))
    for owner, name in steps:
        setattr(owner, name, counted(getattr(owner, name)))
    store = Store(Path(sys.argv[1]))
    key = key_of()
    with store.lock(key.digest):
        store.publish(key, prompts("a", "b"))
    print("published", calls)
"""


def test_a_kill_at_any_moment_of_publishing_leaves_no_half_result(tmp_path: Path) -> None:
    want = put(Store(tmp_path / "uninterrupted"), prompts("a", "b"))
    kills, finished = 0, False
    while not finished:
        kills += 1
        store = Store(tmp_path / f"kill-{kills}")
        command = [sys.executable, "-c", textwrap.dedent(KILL), str(store.root), str(kills)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        finished = done.stdout.startswith("published")
        assert finished or done.returncode == -9, done.stderr
        found = store.lookup(want.key)
        assert found.reason == "never run" if found.record is None else found.record.content == want.content
        assert put(store, prompts("a", "b")).content == want.content  # the kernel freed the lock
        assert store.record_of(want.key)
        assert names(store.root / "damaged") == names(store.root / "partial") == []
    assert kills > 9


def test_a_wait_for_a_lock_names_its_holder_and_may_be_given_up(store: Store) -> None:
    holders: list[str] = []

    def waiting(seconds: float, holder: str) -> None:
        holders.append(holder)
        if len(holders) == 3:
            raise TimeoutError

    with store.lock("a", "run 1 · fit"):
        with pytest.raises(TimeoutError), store.lock("a", waiting=waiting):
            pass
        assert store.is_locked("a")
    assert holders == ["run 1 · fit"] * 3
    assert not store.is_locked("a")
    assert names(store.root / "locks") == []


def test_work_that_an_attempt_left_behind_shows_and_its_output_folder_does_not(store: Store) -> None:
    key = key_of().digest
    assert not store.begun(key)
    for folder in ("work", "output", ".publish"):
        (store.partial(key) / folder).mkdir(parents=True)
    (store.partial(key) / "output" / "half").write_text("x")
    assert not store.begun(key)
    (store.partial(key) / "work" / "shard-0.arrow").write_text("x")
    assert store.begun(key)


def test_the_store_is_light_until_a_handle_is_opened(store: Store) -> None:
    record = put(store, prompts("a"))
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from flows.store.store import Store
        from flows.store.runs import Runs
        import flows.store.lineage, flows.store.maintenance, flows.planning.plan
        store = Store(Path({str(store.root)!r}))
        assert store.record_of({record.key!r})
        Runs(store).find({record.content[:8]!r})
        print(sorted({{"pyarrow", "torch", "polars", "numpy", "prefect", "mlflow"}} & set(sys.modules)))
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
