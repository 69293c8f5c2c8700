"""The ways to look answers up find the same."""

from pathlib import Path

from benchmarks.answers import by_loop, by_store, filled


def test_store_and_loop_find_the_half_of_the_questions_that_has_answers(tmp_path: Path) -> None:
    questions = filled(tmp_path, 20)
    assert len(questions) == 20
    assert by_store(tmp_path, questions, 20) == by_store(tmp_path, questions, 3) == by_loop(tmp_path, questions) == 10
