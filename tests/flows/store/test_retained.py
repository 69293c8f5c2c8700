"""What a ledger names is found, has its lineage and is not reclaimed, whatever results its keys get later."""

import os
import shutil
from pathlib import Path

import pytest

from flows.store.keys import Key
from flows.store.lineage import training_tables
from flows.store.maintenance import collect_garbage, verify_store
from flows.store.records import Record
from flows.store.retained import carried_record, retain_values
from flows.store.store import KEPT, Store
from flows.wiring.model import Node
from tasks.contract import DataError
from tasks.kinds import Artifact, Policy
from tests.flows.store.made import completions, model, prompts, publish, put, refuse_seen
from tests.flows.tiny import node


class World:
    """Two policies, each trained on a part of its own."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.parts = [put(store, prompts(f"p{n}"), "part", index=n) for n in (1, 2)]
        self.first = put(store, Policy(_made(store, "first")), "fit", {"data": [self.parts[0]]})
        self.second = put(
            store, Policy(_made(store, "second")), "fit", {"policy": [self.first], "data": [self.parts[1]]}
        )

    def all(self) -> list[Record]:
        return [*self.parts, self.first, self.second]


def _made(store: Store, text: str) -> Path:
    """A checkpoint that the store moves in."""
    return model(store.root / "partial" / text / "output", text)


def _again(store: Store, record: Record, handle: Artifact) -> Record:
    """What `--fresh` leaves: another result under the key."""
    made = publish(store, Key(record.key, record.parts), handle, fresh=True)
    assert (made.key, made.content != record.content) == (record.key, True)
    return made


def _carried(record: Record) -> Node:
    return node("prev.policy", "carried", record.kind, digest=record.content)


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    return World(store, tmp_path)


def test_a_value_whose_key_got_another_result_is_found_and_stays(store: Store, world: World) -> None:
    retain_values(store, [world.second], world.all())
    other = _again(store, world.second, Policy(_made(store, "other")))
    assert collect_garbage(store) == []
    assert carried_record(store, _carried(world.second)) == world.second
    assert carried_record(store, _carried(other)) == other


def test_an_adapter_that_a_tick_left_keeps_its_base_and_names_it_where_it_is_gone(store: Store, world: World) -> None:
    folder = _made(store, "adapter")
    (folder / "adapter.json").write_text(f'{{"base": "{world.first.content}"}}')
    left = put(store, Policy(folder), "fit", {"policy": [world.first]})
    retain_values(store, [left], [*world.all(), left])
    _again(store, world.first, Policy(_made(store, "other")))
    _again(store, left, Policy(_made(store, "whole")))
    assert collect_garbage(store) == []
    assert carried_record(store, _carried(left)) == left
    shutil.rmtree(store.root / world.first.path)
    with pytest.raises(
        DataError, match=rf"{left.content[:12]} \(fit\) cannot be used: its base is .* \(made by `fit` "
    ):
        carried_record(store, _carried(left))


def test_without_its_record_a_value_is_gone(store: Store, world: World) -> None:
    _again(store, world.second, Policy(_made(store, "other")))
    with pytest.raises(DataError, match=r"prev\.policy was Policy .*, which is gone"):
        carried_record(store, _carried(world.second))
    assert [f.path for f in collect_garbage(store)] == [world.second.path.as_posix()]


def test_prompts_that_trained_it_are_refused_though_every_step_behind_it_got_another_result(
    store: Store, world: World
) -> None:
    retain_values(store, [world.second], world.all())
    _again(store, world.parts[0], prompts("x1"))
    _again(store, world.parts[1], prompts("x2"))
    _again(store, world.first, Policy(_made(store, "other first")))
    _again(store, world.second, Policy(_made(store, "other second")))
    assert collect_garbage(store) == []
    assert {e.content for e in training_tables(store, world.second.content)} == {r.content for r in world.parts}
    tables = [put(store, completions(i), "sample", {"policy": [world.second]}, who=i) for i in ("p1", "p2", "x1")]
    for table in tables[:2]:
        with pytest.raises(DataError, match=r"1 of 1 evaluation prompts also trained what is measured \(part "):
            refuse_seen(store, {"completions": [table]}, allow=False)
    assert refuse_seen(store, {"completions": [tables[2]]}, allow=False) == ""
    again = Store(store.root)  # reads the index from its cache
    assert training_tables(again, world.second.content) == training_tables(store, world.second.content)


def test_what_a_kill_left_out_of_the_kept_records_is_filed_the_next_time(store: Store, world: World) -> None:
    retain_values(store, [world.second], world.all())
    files = sorted((store.root / KEPT).iterdir(), key=lambda f: f.stat().st_mtime_ns)
    assert len(files) == 4
    for kept in range(4):
        for file in files[kept:]:
            file.unlink(missing_ok=True)
        retain_values(store, [world.second], [])
        assert sorted((store.root / KEPT).iterdir()) == sorted(files)


def test_verify_reads_a_kept_value_and_a_damaged_one_is_gone(store: Store, world: World) -> None:
    retain_values(store, [world.second], world.all())
    _again(store, world.second, Policy(_made(store, "other")))
    assert verify_store(store) == []
    (store.root / world.second.path / "model.safetensors").write_text("noise!")
    os.utime(store.root / world.second.path / "model.safetensors", (1, 1))
    [damage] = verify_store(store)
    assert damage.record == world.second
    assert "set aside in damaged/" in damage.trouble
    with pytest.raises(DataError, match="which is gone"):
        carried_record(store, _carried(world.second))
    shutil.rmtree(store.root / "damaged")
    assert verify_store(store) == []
