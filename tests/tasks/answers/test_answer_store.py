from pathlib import Path

from tasks.answers.store import Answer, AnswerStore

PAID = Answer([0.25, None], "A, I think", 12, 3, 0.5, 0.01)


def test_an_answer_is_found_as_it_was_added_by_any_store_of_the_folder(tmp_path: Path) -> None:
    AnswerStore(tmp_path / "answers").add("judge", {"q1": PAID, "q2": Answer(None)})
    found = AnswerStore(tmp_path / "answers").find("judge", ["q2", "q1", "q3", "q1"])
    assert found == {"q1": PAID, "q2": Answer(None)}


def test_an_answer_belongs_to_the_identity_of_its_oracle(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    store.add("judge", {"q": Answer(0.5)})
    assert store.find("judge v2", ["q"]) == {}


def test_the_first_answer_to_a_question_stays(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    store.add("judge", {"q": Answer(0.5)})
    store.add("judge", {"q": Answer(0.75)})
    assert store.find("judge", ["q"])["q"].value == 0.5
