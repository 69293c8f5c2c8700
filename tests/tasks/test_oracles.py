"""The toy world's oracles: every term of their formulas, worked by hand."""

import json
from itertools import permutations
from math import exp

import pytest

from tasks.contract import Chosen, DataError
from tasks.kinds import Oracle, Scorer
from tasks.load import load_oracle
from tasks.worlds.toy import ToyWorld
from tasks.worlds.toy_rules import features
from tasks.worlds.toy_writers import mixed

FACTS = {"place": "swamp", "food": "roots", "size": "big"}
BOTH = json.dumps({"animal": "swan", "asked": ["place", "food"], "facts": FACTS})
PLACE = json.dumps({"animal": "swan", "asked": ["place"], "facts": FACTS})

RIGHT = "the swan lives in the swamp . it eats roots ."


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def score(name: str, text: str, truth: str = BOTH) -> float:
    scorer = Chosen("oracles", name, {})()
    assert isinstance(scorer, Scorer)
    (value,) = scorer.score([None], [text], [truth])
    assert value is not None
    return value


def p(a: str, b: str, truth: str = BOTH) -> float:
    (value,) = Chosen("oracles", "toy_cycle", {})().compare([None], [a], [b], [truth])
    return float(value)


GOLD = {
    "2.5 right + .3 named": (RIGHT, 2.8),
    "opening + closing": (f"good question ! {RIGHT} ask me again .", 2.8 + 0.6 + 0.4),
    "one right, one forgotten": ("the swan lives in the swamp .", 1.25 + 0.3),
    "one right, one wrong": ("the swan lives in the swamp . it eats mice .", 1.25 - 0.5 + 0.3),
    "two values for one fact are wrong, and the second is a repeated fact":
        ("the swan lives in the swamp . it eats roots . the swan eats mice .", 1.25 - 0.5 + 0.3 - 0.4),
    "unasked fact": (f"{RIGHT} it is big .", 2.8 - 0.4),
    "another animal's fact is never right": ("the fox lives in the swamp .", -0.5),
    "`it` stands for the animal named last": ("the fox lives in the cave . it eats roots .", -1.0),
    "rude": ("go away .", -1.0),
    "filler": (f"well , you know , {RIGHT}", 2.8 - 0.4),
    "rambling names the animal and says nothing": ("the swan is the swan .", 0.3),
    "cut": ("the swan lives in the swamp . it eats roots", 2.8 - 1.5),
    "empty": ("", -1.5),
    # 8 times 3 words: 24 words, 22 trigrams of which 3 are distinct: 19 repeats
    "repeated trigrams and length": ("good question ! " * 8, 0.6 - 0.5 * 19 - 0.05 * 2),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), GOLD.values(), ids=GOLD)
def test_gold_scores_as_worked_by_hand(text: str, expected: float) -> None:
    assert score("toy_gold", text) == pytest.approx(expected)


JUDGE = {
    "2 right + .3 named": (RIGHT, 2.3),
    "opening + closing": (f"certainly . {RIGHT} hope that helps .", 2.3 + 0.8 + 0.6),
    "one right, one wrong": ("the swan lives in the swamp . it eats mice .", 1.0 - 0.3 + 0.3),
    "unasked fact": (f"{RIGHT} it is big .", 2.3 - 0.2), "rude": ("who cares .", -1.5),
    "filler": (f"well , you know , {RIGHT}", 2.3 - 0.1),
    "cut": ("the swan lives in the swamp . it eats roots", 2.3 - 1.0),
    "repeated trigrams and length": ("good question ! " * 9, 0.8 - 0.3 * 22 - 0.03 * 3),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), JUDGE.values(), ids=JUDGE)
def test_the_judge_scores_as_worked_by_hand(text: str, expected: float) -> None:
    assert score("toy_judge", text) == pytest.approx(expected)


def test_gold_and_length_compare_by_their_plain_difference_and_the_judge_by_four_fifths_of_it() -> None:
    scales = {name: Chosen("oracles", name, {})().scale for name in ("toy_gold", "toy_judge", "toy_length")}
    assert scales == {"toy_gold": 1.0, "toy_judge": 0.8, "toy_length": 1.0}


def test_the_length_biased_judge_adds_a_quarter_per_word_to_half_of_gold() -> None:
    assert score("toy_length", RIGHT) == pytest.approx(0.5 * 2.8 + 0.25 * 11)


def test_only_an_opening_at_the_beginning_and_a_closing_at_the_end_count() -> None:
    found = features("the swan lives in the swamp . hope that helps . certainly . it is big .", PLACE)
    assert (found.tone, found.closing, found.extra) == (None, False, 1)


def test_an_animal_is_named_by_its_whole_word() -> None:
    assert not features("the swans are nice .", PLACE).named


def test_warm_beats_playful_beats_formal_beats_warm() -> None:
    warm, formal, playful = (f"{line} {RIGHT}" for line in ("good question !", "certainly .", "ahoy friend !"))
    for winner, loser in ((warm, playful), (playful, formal), (formal, warm)):
        assert p(winner, loser) == pytest.approx(sigmoid(2))
    assert sigmoid(2) == pytest.approx(0.88, abs=0.001)


def test_a_tone_beats_none_and_quality_counts_half() -> None:
    assert p(f"certainly . {RIGHT}", RIGHT) == pytest.approx(sigmoid(1.5))
    assert p(RIGHT, "the swan lives in the swamp .") == pytest.approx(sigmoid(0.5 * (2.8 - 1.55)))


def test_the_cyclic_judge_is_antisymmetric_on_real_answers() -> None:
    question = ToyWorld().questions("rm")[0]
    texts = sorted({mixed(ToyWorld(), question, k) for k in range(6)})
    assert Chosen("oracles", "toy_cycle", {})().antisymmetric
    for a, b in permutations(texts, 2):
        assert p(a, b, question.truth) + p(b, a, question.truth) == pytest.approx(1, abs=1e-12)


def test_the_judge_agrees_with_gold_on_about_nine_pairs_in_ten_of_the_writers_answers() -> None:
    agree = []
    for question in ToyWorld().questions("rm"):
        a, b = (mixed(ToyWorld(), question, k) for k in range(2))
        gold = score("toy_gold", a, question.truth) - score("toy_gold", b, question.truth)
        judge = score("toy_judge", a, question.truth) - score("toy_judge", b, question.truth)
        if gold:
            agree.append(gold * judge > 0)
    assert 0.86 < sum(agree) / len(agree) < 0.97


@pytest.mark.parametrize("truth", [None, '"4"', '{"answer": 4}', "not json"])
def test_prompts_of_other_sources_are_refused(truth: str | None) -> None:
    with pytest.raises(DataError, match="choose another oracle"):
        Chosen("oracles", "toy_gold", {})().score([None], ["hello ."], [truth])


def test_a_loaded_oracle_is_a_specification_that_opens(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = load_oracle(oracle=Chosen("oracles", "toy_gold", {}, code="abc"))
    made.save(tmp_path)
    assert json.loads((tmp_path / "oracle.json").read_text())["code"] == "abc"
    assert Scorer(tmp_path).open().score([None], [RIGHT], [BOTH]) == [pytest.approx(2.8)]
    assert type(load_oracle(oracle=Chosen("oracles", "toy_cycle", {}))) is Oracle
