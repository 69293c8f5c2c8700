"""The toy world: facts, questions, splits, writers."""

import numpy as np
import pytest

from tasks.contract import SpecError
from tasks.worlds import SPLITS
from tasks.worlds.toy import ANIMALS, ToyWorld, ask
from tasks.worlds.toy_rules import features, gold
from tasks.worlds.toy_writers import golden, mixed


def test_a_question_names_its_animal_once_and_asks_in_order() -> None:
    assert ask("swan", ("place", "food"), 0) == "where does the swan live and what does it eat ?"
    assert ask("swan", ("size", "place"), 1) == "tell me how big the swan is and where it lives ."
    assert ask("swan", ("food",), 2) == "i want to know what the swan eats ."
    assert ask("swan", ("food", "size"), 5) == "about the swan : what does it eat and how big is it ?"


def test_there_are_36_animals_and_1296_distinct_questions_in_disjoint_splits() -> None:
    world = ToyWorld()
    texts = {split: [q.text for q in world.questions(split)] for split in SPLITS}
    assert len(set(ANIMALS)) == 36
    assert {split: len(t) for split, t in texts.items()} == {"rm": 400, "policy": 640, "gate": 128, "heldout": 128}
    assert len({text for t in texts.values() for text in t}) == 36 * 6 * 6 == 1296


def test_every_animal_and_every_asked_set_occurs_in_every_split() -> None:
    for split in SPLITS:
        questions = ToyWorld().questions(split)
        assert {q.asked for q in questions} == {q.asked for q in ToyWorld().questions("rm")}
        assert len({q.animal for q in questions}) >= 34


def test_the_seed_makes_another_world_and_the_same_seed_the_same() -> None:
    assert ToyWorld(7).facts == ToyWorld(7).facts != ToyWorld(8).facts
    assert [q.text for q in ToyWorld(7).questions("rm")] != [q.text for q in ToyWorld(8).questions("rm")]
    question = ToyWorld(7).questions("rm")[0]
    assert mixed(ToyWorld(7), question, 0) == mixed(ToyWorld(7), question, 0)


@pytest.mark.parametrize("tones", [(0.5, 0.5), (-0.1, 0.6, 0.5), (0.0, 0.0, 0.0)])
def test_tones_are_three_shares(tones: tuple[float, ...]) -> None:
    with pytest.raises(SpecError, match="three shares"):
        ToyWorld(tones=tones)


def _sft(world: ToyWorld) -> list[tuple[str, str]]:
    return [(mixed(world, q, k), q.truth) for q in world.questions("sft") for k in range(3)]


def test_golden_answers_score_the_highest_gold_and_demonstrations_far_less() -> None:
    world = ToyWorld()
    best = {round(gold(features(golden(world, q, k), q.truth)), 9) for q in world.questions("sft") for k in range(3)}
    assert best == {3.8}
    assert np.mean([gold(features(text, truth)) for text, truth in _sft(world)]) == pytest.approx(0.8, abs=0.1)


def test_writers_fail_as_often_as_the_world_says() -> None:
    found = [features(text, truth) for text, truth in _sft(ToyWorld())]
    polite = [f for f in found if not f.rude]
    assert np.mean([f.rude for f in found]) == pytest.approx(0.15, abs=0.02)
    assert np.mean([f.tone is not None for f in polite]) == pytest.approx(0.30, abs=0.03)
    assert np.mean([f.closing for f in polite]) == pytest.approx(0.20, abs=0.03)
    # one fact asked: .65; two: .65 · (1 − .35/2) = .536
    assert np.mean([f.right for f in polite]) == pytest.approx((0.65 + 0.536) / 2, abs=0.03)
    assert all(f.ended for f in found)
    assert max(f.words for f in found) < 61


def test_other_tones_leave_everything_but_the_openings_alone() -> None:
    even, uneven = ToyWorld(), ToyWorld(tones=(0.6, 0.3, 0.1))
    question = even.questions("rm")[0]
    assert even.questions("rm") == uneven.questions("rm")
    assert [features(mixed(even, question, k), question.truth).right for k in range(30)] == [
        features(mixed(uneven, question, k), question.truth).right for k in range(30)
    ]
