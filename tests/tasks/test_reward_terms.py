"""Formats and lengths as terms of a reward: scores worked by hand, patterns that are refused, sums with names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contract import Chosen, DataError, SpecError
from tasks.judging.journal import Journal
from tasks.judging.pairing import Questions
from tasks.kinds import Scorer
from tasks.load import load_oracle
from tasks.scorers import ensemble
from tests.answers import completions, saved, scorer
from tests.workspace import Workspace


def scores(name: str, texts: list[str], **params: Any) -> list[float | None]:
    found: Scorer = Chosen("oracles", name, params)()
    return [*found.score([None] * len(texts), texts, [None] * len(texts))]


def test_a_whole_answer_matches_a_pattern_or_a_part_of_it_does() -> None:
    texts = ["<a>4</a>", "so <a>4</a>", "<a>\n4</a>", ""]
    assert scores("format_reward", texts, expression="<a>.*</a>") == [1, 0, 0, 0]
    assert scores("format_reward", texts, expression="(?s)<a>.*</a>", where="anywhere") == [1, 1, 1, 0]
    assert scores("format_reward", ["", "x"], expression=".*") == [1, 1]


def test_an_invalid_pattern_is_refused_with_the_place_before_anything_runs() -> None:
    from tasks.oracles.format_reward import identity

    with pytest.raises(SpecError, match=r"'\(a' is an invalid regular expression: missing \), at character 3"):
        identity(online=False, base=Path(), expression="(a")
    assert identity(online=False, base=Path(), expression="a+") == {}


def test_a_pattern_that_backtracks_without_end_ends_the_step_and_is_no_score() -> None:
    endless, answer = "(a|b|ab)*(?=c)", "ab" * 40  # 2^40 ways to cut the answer into a, b and ab
    with pytest.raises(DataError, match=r"more than 1 s for one answer of 80 characters.*begins 'abab"):
        scores("format_reward", [answer], expression=endless)
    assert scores("format_reward", [answer], expression="(a|b|ab)*+c?") == [1]


def test_each_word_beyond_the_bounds_has_the_price() -> None:
    texts = ["one", "one two three", "one two three four", "  one \n two  "]
    assert scores("length_penalty", texts, most=3) == [0, 0, -1, 0]
    assert scores("length_penalty", texts, least=2, most=2, price=0.5) == [-0.5, -0.5, -1.0, 0]
    assert scores("length_penalty", ["", "abcd"], least=2, most=3, counted_in="characters", price=2) == [-4, -2]


def test_bounds_that_leave_every_length_or_none_free_are_refused() -> None:
    with pytest.raises(SpecError, match="bounds nothing: set `most`, `least`, or both"):
        scores("length_penalty", ["a"])
    with pytest.raises(SpecError, match="least = 3 is above most = 2, so every answer would pay"):
        scores("length_penalty", ["a"], least=3, most=2)


def test_a_weighted_sum_of_a_reward_a_format_and_a_length_knows_what_each_of_them_gave(tmp_path: Path) -> None:
    """Weights 1, 2, −0.5 of a table, a format and lengths: a: 3 + 0 − 0, bb: 1 + 2 − 0.5·(−1), c c: no score."""
    reward = scorer({"a": 3.0, "bb": 1.0, "c c": None})
    terms = [
        Chosen("oracles", "format_reward", {"expression": "b+"})(),
        Chosen("oracles", "length_penalty", {"most": 1, "counted_in": "characters"})(),
    ]
    table = saved(completions({"x": ["a", "bb", "a", "c c"]}), tmp_path / "table").table
    oracle = ensemble([reward, *terms], Workspace(tmp_path), how="weighted", weights=[1, 2, -0.5]).open()
    assert oracle.blend
    with Journal(tmp_path / "journal", Workspace(tmp_path / "work"), oracle) as journal:
        found, members = Questions(table).blended(oracle.blend, journal)
    assert journal.queries == len(reward.questions) == 3  # a is one question
    assert found.tolist()[:3] == [3.0, 3.5, 3.0]
    assert members.tolist()[:3] == [[3, 0, 0], [1, 1, -1], [3, 0, 0]]
    assert np.isnan(found[3])
    assert np.isnan(members[3]).all()
    assert [*oracle.score([[{"content": "ask"}]] * 2, ["a", "bb"], [None] * 2)] == [3.0, 3.5]
    with Journal(tmp_path / "journal", Workspace(tmp_path / "work"), oracle) as journal:
        again = Questions(table).blended(oracle.blend, journal)
    assert len(reward.questions) == 5  # three of the journal, two above: the second attempt asks nothing
    np.testing.assert_array_equal(again[1], members)


def test_members_are_named_by_their_choices_or_as_the_user_says(tmp_path: Path) -> None:
    def blended(folder: str, **options: Any) -> tuple[str, ...]:
        rules = [load_oracle(oracle=Chosen("oracles", n, p)) for n, p in (
            ("toy_gold", {}), ("length_penalty", {"most": 3}), ("length_penalty", {"least": 1}))]  # fmt: skip
        members = [saved(rule, tmp_path / folder / str(i)) for i, rule in enumerate(rules)]
        made = ensemble(members, Workspace(tmp_path / folder / "made"), how="mean", **options)
        blend = made.open().blend
        assert blend
        return blend.names

    assert blended("own") == ("toy_gold", "length_penalty", "length_penalty_2")
    assert blended("given", names=["gold", "long", "short"]) == ("gold", "long", "short")
    for names, message in (
        (["a", "b"], "one for|a name of its own"),
        (["a", "a", "b"], "a name of its own"),
        (["a", "b", "c/d"], "'c/d' cannot be part"),
    ):
        with pytest.raises(SpecError, match=message):
            ensemble([scorer({})] * 3, Workspace(tmp_path / "wrong"), how="mean", names=names)
