"""Scorers in the store: they refer to their members by content, and so to what the members refer to."""

import json
import shutil
from pathlib import Path

import pytest

from flows.store.maintenance import collect_garbage, verify_store
from flows.store.records import Record
from flows.store.references import all_of
from flows.store.retained import carried_record, retain_values
from flows.store.store import Store
from tasks.contract import DataError
from tasks.kinds import Ensemble, ImplicitReward, Model, Policy
from tests.flows.store.made import key_of, model, publish, put
from tests.flows.store.test_references import fitted
from tests.flows.tiny import node


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


class Made:
    """A base, an adapter of it, the implicit reward of both, and an ensemble of that reward."""

    def __init__(self, store: Store) -> None:
        self.base, self.adapter = fitted(store)
        handles = {"policy": [store.open(self.adapter)], "ref": [store.open(self.base)]}
        parents = {"policy": [self.adapter], "ref": [self.base]}
        self.reward = put(store, ImplicitReward.made_of(handles, {"beta": 1.0}), "implicit", parents)
        member = {"member": [store.open(self.reward)]}
        self.ensemble = put(store, Ensemble.made_of(member, {"how": "mean"}), "together", {"oracles": [self.reward]})

    def all(self) -> list[Record]:
        return [self.base, self.adapter, self.reward, self.ensemble]


def test_a_record_names_all_that_its_content_refers_to_and_the_store_opens_the_tree(store: Store) -> None:
    made = Made(store)
    contents = {r.content for r in (made.adapter, made.base)}
    assert {*made.reward.refers_to} == contents
    assert {*made.ensemble.refers_to} == {*contents, made.reward.content}
    opened = store.open(made.ensemble)
    assert isinstance(opened, Ensemble)
    assert opened.params == {"how": "mean"}
    [reward] = opened.members["member"]
    assert isinstance(reward, ImplicitReward)
    [policy] = reward.members["policy"]
    assert isinstance(policy, Model)
    assert policy.base is not None
    assert policy.base.digest == reward.members["ref"][0].digest == made.base.content


def test_contents_are_the_same_in_two_stores(tmp_path: Path) -> None:
    stores = [Store(tmp_path / name / "artifacts") for name in ("one", "other")]
    one, other = ([r.content for r in Made(store).all()] for store in stores)
    assert one == other


def test_a_scorer_whose_members_base_is_gone_is_a_miss_and_says_the_way_to_it(store: Store) -> None:
    made = Made(store)
    shutil.rmtree(store.root / made.base.path)
    lost = (
        f"its member is ImplicitReward {made.reward.content[:12]}, which cannot be used: its policy is Policy "
        f"{made.adapter.content[:12]}, which cannot be used: its base is Policy {made.base.content[:12]} (made by "
    )
    assert store.lookup(made.ensemble.key).reason.startswith(lost)
    with pytest.raises(DataError, match=r"Ensemble \w{12} \(together\) cannot be used: its member is"):
        store.open(made.ensemble)
    assert {d.what.split()[0] for d in verify_store(store)} == {"Policy", "ImplicitReward", "Ensemble"}
    assert (store.root / made.ensemble.path).is_dir()


def test_gc_keeps_members_whose_keys_have_other_results_and_frees_them_with_the_last_scorer(store: Store) -> None:
    made = Made(store)
    for record in (made.base, made.adapter, made.reward):
        (store.root / "keys" / f"{record.key}.json").unlink()
    assert collect_garbage(store) == []
    assert [r.content for r in all_of(store.references.of(made.ensemble))] == [
        made.reward.content, made.adapter.content, made.base.content, made.base.content,
    ]  # fmt: skip
    (store.root / "keys" / f"{made.ensemble.key}.json").unlink()
    assert {f.path for f in collect_garbage(store)} == {r.path.as_posix() for r in made.all()}


def test_a_scorer_that_an_earlier_tick_left_is_opened_with_its_members(store: Store) -> None:
    made = Made(store)
    retain_values(store, [made.ensemble], made.all())
    for record in made.all():
        (store.root / "keys" / f"{record.key}.json").unlink()
    assert collect_garbage(store) == []
    carried = carried_record(store, node("prev.judge", "carried", "Ensemble", digest=made.ensemble.content))
    assert carried.content == made.ensemble.content
    assert isinstance(store.open(carried), Ensemble)
    shutil.rmtree(store.root / made.adapter.path)
    with pytest.raises(DataError, match="cannot be used: its member is ImplicitReward"):
        carried_record(store, node("prev.judge", "carried", "Ensemble", digest=made.ensemble.content))


def test_a_member_in_a_folder_of_the_user_is_named_where_it_changed(store: Store, tmp_path: Path) -> None:
    folder = model(tmp_path / "mine", "weights")
    mine, other = put(store, Policy(folder), "read"), put(store, Policy(model(tmp_path / "other", "more")), "read2")
    handles = {"policy": [store.open(mine)], "ref": [store.open(other)]}
    reward = put(store, ImplicitReward.made_of(handles, {"beta": 1.0}), "implicit", {"policy": [mine], "ref": [other]})
    assert [one.location for one in all_of(store.references.of(reward))] == [folder, tmp_path / "other"]
    (folder / "model.safetensors").write_text("others")
    reason = store.lookup(reward.key).reason
    assert reason.startswith(f"its policy is Policy {mine.content[:12]} (made by `read` ")
    assert reason.endswith(f" in {folder}, and that folder has changed: put it back as it was")


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        ({"kind": "Policy", "content": "./here"}, "is an implicit reward that does not name its policy by its content"),
        (
            {"kind": "Policy", "content": "ab" * 16},
            "its policy is a Policy of content abab.*which is not in the artifacts",
        ),
    ],
)
def test_a_scorer_of_what_is_not_here_is_not_published(
    member: dict[str, str], problem: str, store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "scorer"
    folder.mkdir()
    (folder / "scorer.json").write_text(json.dumps({"members": {"policy": [member]}, "params": {}}))
    key = key_of("implicit")
    with pytest.raises(DataError, match=problem):
        publish(store, key, ImplicitReward(folder))
    assert not list(store.records())


def test_a_scorer_that_was_not_opened_from_a_store_says_what_it_lacks(store: Store) -> None:
    made = Made(store)
    with pytest.raises(DataError, match="are not given: open it from a store, or `attach` them"):
        Ensemble(store.root / made.ensemble.path).open()
