"""Splits: named ones by name or with a suffix, shares by hash, and all rows at once."""

import pytest

from tasks.contract import SpecError
from tasks.formats.splits import Share, select_split
from tasks.formats.tables import RawRows

ULTRAFEEDBACK = ("train_prefs", "train_sft", "test_prefs", "test_sft", "train_gen", "test_gen")


def named(*names: str) -> dict[str, RawRows]:
    return {name: RawRows(lambda name=name: iter([(name, {"prompt": name})])) for name in names}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("split", "what", "name"),
    [("train", "preferences", "train_prefs"), ("train", "demonstrations", "train_sft"),
     ("train", "prompts", "train_gen"), ("heldout", "preferences", "test_prefs"),
     ("test", "demonstrations", "test_sft"), ("train_sft", "preferences", "train_sft")],
)  # fmt: skip
def test_a_split_with_a_suffix_is_found_by_what_is_read(split: str, what: str, name: str) -> None:
    share = select_split("data", named(*ULTRAFEEDBACK), split, what)
    assert (share.name, share.low, share.high) == (name, 0.0, 1.0)


def test_shares_are_cut_from_the_split_for_training_where_another_is_held_out() -> None:
    share = select_split("data", named("train_prefs", "test_prefs"), "policy", "preferences")
    assert (share.name, share.low, share.high) == ("train_prefs", pytest.approx(0.3 / 0.9), 0.8 / 0.9)


@pytest.mark.parametrize("names", [("train",), ("train", "test"), ULTRAFEEDBACK])
def test_all_is_every_row_of_every_split(names: tuple[str, ...]) -> None:
    share = select_split("data", named(*names), "all", "prompts")
    assert [where for where, _ in share.rows.read()] == list(names)
    assert share.contains("f" * 32)


def test_one_split_is_taken_whole_by_its_own_name_and_divided_under_any_other() -> None:
    only = named("train_prefs")
    assert select_split("data", only, "train_prefs", "preferences") == Share("train_prefs", only["train_prefs"])
    assert select_split("data", only, "heldout", "preferences").low == 0.9


@pytest.mark.parametrize(
    ("names", "split", "message"),
    [(("train", "extra"), "heldout", r"no split 'heldout'; choose one of \['all', 'extra', 'train'\]"),
     (("train_a", "train_b", "test"), "train", r"several splits 'train': choose one of \['train_a', 'train_b'\]"),
     (("data",), "test", r"no split 'test'; it is divided by hash into \['all', 'gate'")],
)  # fmt: skip
def test_a_split_that_is_not_there_or_not_clear_is_refused_with_those_there_are(
    names: tuple[str, ...], split: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        select_split("data", named(*names), split, "prompts")
