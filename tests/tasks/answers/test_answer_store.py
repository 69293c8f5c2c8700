import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.answers import database
from tasks.answers.store import Answer, AnswerStore, Paid
from tasks.answers.upkeep import check_answers, forget_answers, unneeded_files
from tasks.contract import DataError

PAID = Answer([0.25, None], "A, I think", 12, 3, 0.5, 0.01)


def in_another_process(function: Callable[[], object]) -> int:
    """Run a function in a fork that then kills itself; returns by which signal it ended."""
    child = os.fork()
    if child == 0:
        try:
            function()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def many(n: int) -> dict[str, Answer]:
    return {f"{i:032x}": Answer(i / n, "because " * 40, 100, 20) for i in range(n)}


def test_an_answer_is_found_as_it_was_added_by_any_store_of_the_folder(tmp_path: Path) -> None:
    AnswerStore(tmp_path / "answers").add("judge", {"q1": PAID, "q2": Answer(None)})
    found = AnswerStore(tmp_path / "answers").find("judge", ["q2", "q1", "q3", "q1"])
    assert found == {"q1": PAID, "q2": Answer(None)}


def test_an_answer_belongs_to_the_identity_of_its_oracle(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    store.add("judge", {"q": Answer(0.5)})
    store.add("judge v2", {"q": Answer(0.25)})
    assert [store.find(name, ["q"]) for name in ("judge", "judge v2", "other")] == [
        {"q": Answer(0.5)}, {"q": Answer(0.25)}, {},
    ]  # fmt: skip


def test_the_first_answer_to_a_question_stays(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    store.add("judge", {"q": Answer(0.5)})
    store.add("judge", {"q": Answer(0.75)})
    assert store.find("judge", ["q"])["q"].value == 0.5


def test_texts_that_no_database_likes_come_back_as_they_were(tmp_path: Path) -> None:
    texts = ["half of a pair \ud83d", "\x00 in \x00 between", "'; drop table answers; --", "ünïcödé 🦢", ""]
    store = AnswerStore(tmp_path)
    store.add("judge", {str(i): Answer(None, raw) for i, raw in enumerate(texts)})
    assert [a.raw for _, a in sorted(AnswerStore(tmp_path).find("judge", list("01234")).items())] == texts


def test_what_was_added_survives_a_sigkill(tmp_path: Path) -> None:
    assert in_another_process(lambda: AnswerStore(tmp_path).add("judge", {"q": PAID}, payer="a step")) == signal.SIGKILL
    assert AnswerStore(tmp_path).find("judge", ["q"]) == {"q": PAID}
    assert AnswerStore(tmp_path).paid("a step") == Paid(1, 0, 12, 3, 0.01, 0.5)


def test_a_question_is_claimed_by_one_process_until_it_is_answered_or_released(tmp_path: Path) -> None:
    one, other = AnswerStore(tmp_path), AnswerStore(tmp_path)
    assert one.claim("judge", ["q1", "q2", "q3"]) == {"q1", "q2", "q3"}
    assert other.claim("judge", ["q1", "q4"]) == {"q4"}
    assert other.claim("another judge", ["q1"]) == {"q1"}
    one.add("judge", {"q1": PAID})
    one.release("judge", ["q2"])
    assert other.claim("judge", ["q1", "q2", "q3"]) == {"q2"}
    one.close()
    assert other.claim("judge", ["q3"]) == {"q3"}


def test_the_claims_of_a_killed_process_count_no_more(tmp_path: Path) -> None:
    kept: list[AnswerStore] = []

    def claims() -> None:
        kept.append(AnswerStore(tmp_path))
        kept[0].claim("judge", ["q"])

    assert in_another_process(claims) == signal.SIGKILL
    store = AnswerStore(tmp_path)
    assert store.claim("judge", ["q"]) == {"q"}
    [(file, why)] = unneeded_files(tmp_path)
    assert why == "its process has ended"
    assert file.parent == tmp_path / "claims"
    assert AnswerStore(tmp_path).claim("judge", ["q"]) == set()


def test_a_damaged_answer_is_not_found_and_is_replaced(tmp_path: Path) -> None:
    AnswerStore(tmp_path).add("judge", {"q": PAID, "other": PAID})
    with sqlite3.connect(tmp_path / "answers.db") as db:
        db.execute("update answers set raw = 'B, I think' where question = 'q'")
    store = AnswerStore(tmp_path)
    assert list(store.find("judge", ["q", "other"])) == ["other"]
    assert store.damaged == 1
    assert store.claim("judge", ["q", "other"]) == {"q"}
    store.add("judge", {"q": Answer(1.0)})
    assert store.find("judge", ["q"]) == {"q": Answer(1.0)}


def test_a_damaged_database_is_put_aside_and_what_can_be_read_of_it_is_kept(tmp_path: Path) -> None:
    answers = many(400)
    store = AnswerStore(tmp_path)
    store.add("judge", answers, payer="a step")
    store.close()
    file = tmp_path / "answers.db"
    data = bytearray(file.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xff" * 4096
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"was damaged.*answers that could be read.*run again"):
        AnswerStore(tmp_path).find("judge", [*answers])
    [aside] = tmp_path.glob("damaged-*/answers.db")
    assert aside.read_bytes()[middle : middle + 8] == b"\xff" * 8
    again = AnswerStore(tmp_path)
    found = again.find("judge", [*answers])
    assert 300 < len(found) < 400
    assert all(answers[q] == a for q, a in found.items())
    assert again.paid("a step").asked == 400


@pytest.mark.parametrize("content", [b"not a database at all" * 300, b"SQLite format 3\x00" + b"\x00" * 5000])
def test_a_file_that_is_no_database_is_put_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "answers.db").write_bytes(content)
    with pytest.raises(DataError, match="the 0 answers that could be read"):
        AnswerStore(tmp_path)
    AnswerStore(tmp_path).add("judge", {"q": PAID})


def test_a_damaged_database_is_not_put_aside_while_others_use_it(tmp_path: Path) -> None:
    user = AnswerStore(tmp_path)
    user.add("judge", {"q": PAID})
    assert "other processes use it" in database.put_aside(tmp_path)
    assert not list(tmp_path.glob("damaged-*"))
    assert user.find("judge", ["q"]) == {"q": PAID}


def test_a_database_of_a_newer_alignflow_is_refused_and_left_alone(tmp_path: Path) -> None:
    AnswerStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "answers.db") as db:
        db.execute("pragma user_version = 99")
    with pytest.raises(DataError, match="version 99; this one knows 1"):
        AnswerStore(tmp_path)


def test_a_full_disk_is_a_clear_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    store.add("judge", {"q": PAID})
    (pages,) = store._db.read("pragma page_count")[0]
    store._db.read(f"pragma max_page_count = {pages + 1}")
    with pytest.raises(DataError, match=r"disk is full.*free space on its disk, and run again.*kept"):
        store.add("judge", {"long": Answer(None, "x" * 100_000)})
    assert store.find("judge", ["q", "long"]) == {"q": PAID}


def test_a_store_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot be written \(.*\): What was answered"):
        AnswerStore(tmp_path / "answers")


def test_several_processes_make_the_store_and_write_at_the_same_time(tmp_path: Path) -> None:
    children = []
    for n in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store = AnswerStore(tmp_path / "answers")
                for i in range(25):
                    store.add("judge", {f"{n}/{i}": Answer(n)}, payer=str(n))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    found = AnswerStore(tmp_path / "answers").find("judge", [f"{n}/{i}" for n in range(4) for i in range(25)])
    assert len(found) == 100


def test_a_check_puts_damaged_answers_aside_and_keeps_the_others(tmp_path: Path) -> None:
    assert check_answers(tmp_path) == ""
    AnswerStore(tmp_path).add("judge", {"q": PAID, "other": PAID})
    assert check_answers(tmp_path) == ""
    with sqlite3.connect(tmp_path / "answers.db") as db:
        db.execute("update answers set value = '1.0' where question = 'q'")
    db.close()
    assert "the 1 answers that could be read" in check_answers(tmp_path)
    assert AnswerStore(tmp_path).find("judge", ["q", "other"]) == {"other": PAID}
    assert [why for _, why in unneeded_files(tmp_path)] == ["damaged"]


def test_old_answers_are_forgotten_on_request_only(tmp_path: Path) -> None:
    AnswerStore(tmp_path).add("judge", many(3))
    with sqlite3.connect(tmp_path / "answers.db") as db:
        db.execute("update answers set made = 1000 where value = '0.0'")
    db.close()
    assert forget_answers(tmp_path, 2000, dry=True) == 1
    assert forget_answers(tmp_path, 2000) == 1
    assert len(AnswerStore(tmp_path).find("judge", [*many(3)])) == 2
