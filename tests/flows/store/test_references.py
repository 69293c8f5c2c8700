"""Adapters in the store: they refer to their base by its content, and are of use only where that is."""

import json
import shutil
from pathlib import Path

import pytest

from flows.store.maintenance import collect_garbage, verify_store
from flows.store.records import Record
from flows.store.store import Store
from tasks.contract import DataError
from tasks.kinds import Model, Policy
from tests.flows.store.made import key_of, model, prompts, publish, put


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def adapter(folder: Path, base: str, weights: str = "A") -> Policy:
    """A directory that stands for an adapter of the base with this content."""
    (model(folder, "") / "model.safetensors").rename(folder / "adapter.safetensors")
    (folder / "adapter.safetensors").write_text(weights)
    (folder / "adapter.json").write_text(json.dumps({"type": "lora", "base": base}))
    return Policy(folder)


def fitted(store: Store) -> tuple[Record, Record]:
    """A base that was made in the store, and an adapter of it."""
    made = key_of("pretrain")
    base = publish(store, made, Policy(model(store.partial(made.digest) / "output", "weights")))
    key = key_of("fit", {"policy": [base.content]})
    made_of_base = adapter(store.partial(key.digest) / "output", base.content)
    return base, publish(store, key, made_of_base, parents={"policy": [base]})


def test_a_record_of_an_adapter_names_its_base_and_the_store_opens_both(store: Store) -> None:
    base, policy = fitted(store)
    assert (base.refers_to, policy.refers_to) == ((), (base.content,))
    assert store.record(policy.key) == policy
    handle = store.open(policy)
    assert isinstance(handle, Model)
    assert handle.base
    assert (handle.base.path, handle.base.digest) == (store.root / base.path, base.content)
    assert handle.base.base is None


def test_a_record_without_the_field_reads_as_one_that_refers_to_nothing(store: Store) -> None:
    from flows.store.records import _adapter

    old = {name: value for name, value in put(store, prompts("a")).as_json().items() if name != "refers_to"}  # type: ignore[union-attr]
    assert _adapter().validate_python(old).refers_to == ()


def test_the_content_of_an_adapter_is_the_same_in_two_stores(tmp_path: Path) -> None:
    contents = set()
    for name in ("one", "other"):
        _, policy = fitted(Store(tmp_path / name / "artifacts"))
        contents.add(policy.content)
    assert len(contents) == 1


def test_an_adapter_whose_base_is_gone_is_a_miss_and_says_which_base_and_who_made_it(
    store: Store, tmp_path: Path
) -> None:
    base, policy = fitted(store)
    shutil.rmtree(store.root / base.path)
    found = store.lookup(policy.key)
    assert found.record is None
    assert found.reason.startswith(f"its base is Policy {base.content[:12]} (made by `pretrain` ")
    assert found.reason.endswith("), and that is gone: run the pipeline that made it again")
    with pytest.raises(DataError, match=rf"Policy {policy.content[:12]} \(fit\) cannot be used: its base is Policy "):
        store.open(policy)
    assert store.integrity_error(policy) == ""
    publish(store, key_of("pretrain"), Policy(model(tmp_path / "again", "weights")))
    assert store.lookup(policy.key).record == policy


def test_an_adapter_whose_base_was_damaged_is_a_miss_and_stays_where_it_is(store: Store) -> None:
    base, policy = fitted(store)
    (store.root / base.path / "model.safetensors").write_text("WEIGHTS")
    assert "and that was damaged: run the pipeline" in store.lookup(policy.key).reason
    assert (store.root / policy.path).is_dir()
    assert [d.what for d in verify_store(store)] == [
        f"Policy {r.content[:12]} ({r.task})" for r in sorted((base, policy), key=lambda r: r.key)
    ]
    assert (store.root / policy.path).is_dir()
    assert not (store.root / base.path).exists()


def test_a_base_in_a_folder_of_the_user_is_named_where_it_changed_and_serves_where_it_is_put_back(
    store: Store, tmp_path: Path
) -> None:
    folder = model(tmp_path / "mine", "weights")
    base = put(store, Policy(folder), "read")
    policy = put(store, adapter(tmp_path / "fitted", base.content), "fit", {"policy": [base]})
    [[reference]] = store.references.of(policy).values()
    assert (reference.path, reference.location) == (store.root / base.path, folder)
    (folder / "model.safetensors").write_text("others")
    reason = store.lookup(policy.key).reason
    assert reason.endswith(f" in {folder}, and that folder has changed: put it back as it was")
    assert store.lookup(base.key).record is None  # removes the link
    (folder / "model.safetensors").write_text("weights")
    assert store.lookup(policy.key).record == policy
    [[reference]] = store.references.of(policy).values()
    assert (reference.path, reference.location) == (folder, folder)
    folder.rename(tmp_path / "moved")
    assert store.lookup(policy.key).reason.endswith(f" in {folder}, and that folder is gone: put it back as it was")


def test_an_adapter_of_a_base_that_is_not_here_is_not_published(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"its base is a model of content {'ab' * 16}, which is not in the artifacts"):
        put(store, adapter(tmp_path / "fitted", "ab" * 16), "read")
    assert not list(store.records())


def test_an_adapter_of_an_adapter_is_not_published(store: Store, tmp_path: Path) -> None:
    _, policy = fitted(store)
    with pytest.raises(DataError, match=f"an adapter of Policy {policy.content[:12]}, which is an adapter itself"):
        put(store, adapter(tmp_path / "twice", policy.content), "fit", {"policy": [policy]}, lr=1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "that does not name its base by its content"),
        ('{"base": "./base"}', "that does not name its base by its content"),
        ('{"base": null}', "that does not name its base by its content"),
        ("{", "adapter.json is not a mapping in JSON"),
        ("7", "adapter.json is not a mapping in JSON"),
    ],
)
def test_a_description_that_names_no_content_is_refused(text: str, problem: str, store: Store, tmp_path: Path) -> None:
    adapter(tmp_path / "fitted", "")
    (tmp_path / "fitted" / "adapter.json").write_text(text)
    with pytest.raises(DataError, match=problem):
        put(store, Policy(tmp_path / "fitted"), "fit")


def test_gc_keeps_the_base_of_an_adapter_whose_key_has_another_result_now(store: Store, tmp_path: Path) -> None:
    base, policy = fitted(store)
    other = publish(store, key_of("pretrain"), Policy(model(tmp_path / "else", "other weights")), fresh=True)
    assert other.content != base.content
    unused = put(store, Policy(model(tmp_path / "unused", "no adapter")), "pretrain", seed=1)
    (store.root / "keys" / f"{unused.key}.json").unlink()
    assert [f.path for f in collect_garbage(store)] == [unused.path.as_posix()]
    assert store.lookup(policy.key).record == policy
    assert [b.content for b in store.references.of(policy)["base"]] == [base.content]
    (store.root / "keys" / f"{policy.key}.json").unlink()
    assert {f.path for f in collect_garbage(store)} == {base.path.as_posix(), policy.path.as_posix()}
