"""Questions to a server that fails: none is lost, none is answered twice, none is paid twice."""

import multiprocessing
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from tenacity import wait_random_exponential

from tasks.asking.asker import Asker
from tasks.asking.endpoint import AskingLimits, Endpoint
from tasks.asking.payments import FILE, Payments
from tasks.asking.requests import ChatOptions, ChatRequest
from tasks.asking.retries import seconds_to_wait
from tasks.contract import DataError, SpecError
from tasks.judging.session import Session
from tests.chat_server import FAULTS, ChatServer, saying
from tests.workspace import Workspace

OPTIONS = ChatOptions("judge", 0.0, 8)
LOST = {"hang", "cut JSON", "cut body", "page", "dropped", "trickle"}
"""Faults after which nobody but the server knows whether an answer was computed."""


def questions(count: int) -> list[ChatRequest]:
    return [r for i in range(count) for r in OPTIONS.requests([{"role": "user", "content": f"question {i}"}])]


def echo(body: object) -> dict[str, object]:
    return saying(f"answer to {body['messages'][0]['content']}")  # type: ignore[index]


def asked(
    server: ChatServer, folder: Path, requests: list[ChatRequest], *, step: str = "", **limits: object
) -> tuple[list[str], Session]:
    """Texts of the replies, and the session. step: another step than the first, with the same store."""
    work = Workspace(folder / step)
    work.answers = folder / "answers"
    session = Session(work)
    asker = Asker(Endpoint(server.url, "judge"), AskingLimits(**{"timeout": 30.0, **limits}))  # type: ignore[arg-type]
    return [reply.text for reply in asker.replies(requests, session)], session


def check_paid(server: ChatServer, folder: Path, session: Session, count: int) -> None:
    """Each question is answered and counted once, to the token. What the server completed beyond that came too late
    (a time-out on a busy machine, a kill): such attempts are in the payments as lost."""
    stored = session.store.find(Endpoint(server.url, "judge").identity, [r.digest for r in questions(count)])
    assert len(stored) == len(server.completed) == count
    assert sorted((a.tokens_in, a.tokens_out) for a in stored.values()) == sorted(server.tokens.values())
    lines = [line.split('"')[1] for line in (folder / "work" / FILE).read_text().splitlines()]
    assert lines.count("sent") == sum(map(lines.count, ("answered", "failed", "lost"))) >= sum(server.attempts.values())
    assert 0 <= server.completed.total() - lines.count("answered") <= lines.count("lost")


def _answered(folder: Path) -> int:
    return (folder / "work" / FILE).read_text().count('"answered"')


def check_all_faults(folder: Path, count: int, timeout: float) -> ChatServer:
    """Ask so many questions of a server of whose attempts three in ten fail; nothing is lost, and all is counted."""
    requests = questions(count)
    with ChatServer(answer=echo, share=0.3, seed=1) as server:
        texts, session = asked(server, folder, requests, timeout=timeout, retries=12)
        assert texts == [f"answer to question {i}" for i in range(count)]
        check_paid(server, folder, session, count)
        assert session.usage.asked == count == _answered(folder)
        assert sum(server.faulty[kind] for kind in LOST) > 0
        assert session.work.notices[0].split()[1:5] == ["requests", "ended", "without", "a"]  # type: ignore[attr-defined]
        completed = server.completed.total()
        again, reused = asked(server, folder, requests, step="again")
        assert (again, reused.usage.asked, reused.usage.reused) == (texts, 0, count)
        assert server.completed.total() == completed
    return server


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another attempt comes soon; the slow tests wait as users do."""
    import openai  # noqa: F401, in the first test this would take longer than its time-out

    monkeypatch.setattr("tasks.asking.retries._BACKOFF", wait_random_exponential(multiplier=0.02, max=0.5))


@pytest.mark.usefixtures("soon")
def test_under_all_faults_no_question_is_lost_and_the_ledger_is_equal_to_the_servers_count(tmp_path: Path) -> None:
    server = check_all_faults(tmp_path, 100, timeout=1.0)
    assert {kind for kind, n in server.faulty.items() if n and kind} == set(FAULTS)


@pytest.mark.slow
def test_two_thousand_questions_under_all_faults(tmp_path: Path) -> None:
    check_all_faults(tmp_path, 2000, timeout=3.0)


def _ask_all(url: str, folder: Path, count: int) -> None:
    server = ChatServer(url=url)
    asked(server, folder, questions(count), timeout=3.0, retries=12)


def check_kills(folder: Path, count: int, kills: int) -> None:
    """The process is killed again and again; the next goes on. Only what was under way can be asked again."""
    context, concurrency = multiprocessing.get_context("spawn"), 32
    with ChatServer(answer=echo, share=0.3, seed=2, delay=0.02) as server:
        for kill in range(1, kills + 1):
            process = context.Process(target=_ask_all, args=(server.url, folder, count))
            process.start()
            while process.is_alive() and len(server.completed) < count * kill // (kills + 1):
                time.sleep(0.005)
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        time.sleep(0.1)  # what it sent last has been answered
        texts, session = asked(server, folder, questions(count), timeout=3.0, retries=12)
        assert texts == [f"answer to question {i}" for i in range(count)]
        assert session.usage.asked == count  # in all attempts
        check_paid(server, folder, session, count)
        assert server.completed.total() - count <= kills * concurrency


def test_a_killed_step_loses_at_most_what_was_under_way(tmp_path: Path) -> None:
    check_kills(tmp_path, 120, kills=1)


@pytest.mark.slow
def test_two_thousand_questions_under_all_faults_and_five_kills(tmp_path: Path) -> None:
    check_kills(tmp_path, 2000, kills=5)


def test_a_request_is_not_sent_before_the_server_wants_it_again(tmp_path: Path) -> None:
    with ChatServer(share=1.0, faults=("429 with seconds",), retry_after=0.3) as server:
        began = time.monotonic()
        with pytest.raises(DataError, match=r"1 questions got no answer, 1 of them in 3 attempts each \(the last one: "
                                            "status 429"):  # fmt: skip
            asked(server, tmp_path, questions(1), retries=2)
        assert 0.6 <= time.monotonic() - began < 2


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    now = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
    assert seconds_to_wait("2.5") == 2.5
    assert seconds_to_wait(format_datetime(now + timedelta(seconds=90), usegmt=True), now) == 90
    assert seconds_to_wait(format_datetime(now - timedelta(seconds=90), usegmt=True), now) == 0
    assert [seconds_to_wait(x) for x in (None, "", "soon", "inf")] == [None] * 4


PERMANENT = {
    400: "check the length", 401: "set `api_key_env`", 403: "set `api_key_env`", 404: "check `url`",
}  # fmt: skip


@pytest.mark.parametrize(("status", "advice"), PERMANENT.items())
def test_what_cannot_pass_fails_at_once_with_what_to_do(tmp_path: Path, status: int, advice: str) -> None:
    with ChatServer(share=1.0, faults=(str(status),)) as server:
        with pytest.raises(DataError, match=f"refuses the questions with status {status}: .*{advice}"):
            asked(server, tmp_path, questions(100), concurrency=4)
        assert sum(server.attempts.values()) <= 4


def test_a_server_that_is_not_there_ends_the_step_before_all_questions_have_failed(tmp_path: Path) -> None:
    with ChatServer() as server:
        pass
    with pytest.raises(DataError, match=r"500 questions got no answer, \d+ of them in 1 attempts each .*see that the"):
        asked(server, tmp_path, questions(500), retries=0, concurrency=8)
    assert len((tmp_path / "work" / FILE).read_text().splitlines()) < 100


def test_no_more_requests_are_under_way_than_may_be(tmp_path: Path) -> None:
    with ChatServer(delay=0.02) as server:
        asked(server, tmp_path, questions(60), concurrency=7)
        assert server.most_under_way == 7


def test_max_queries_ends_the_step_and_what_was_answered_is_kept(tmp_path: Path) -> None:
    with ChatServer(answer=echo, delay=0.01) as server:
        with pytest.raises(DataError, match="`max_queries` = 40 is reached; 60 questions are not answered"):
            asked(server, tmp_path, questions(100), max_queries=40)
        assert sum(server.attempts.values()) == 40
        with pytest.raises(DataError, match="60 questions are not answered, and what was answered is kept: raise"):
            asked(server, tmp_path, questions(100), max_queries=40)
        texts, session = asked(server, tmp_path, questions(100), max_queries=100)
        assert (len(texts), session.usage.asked, server.completed.total()) == (100, 100, 100)


def test_max_cost_is_never_exceeded_whatever_is_under_way(tmp_path: Path) -> None:
    prices = {"price_in": 1e6, "price_out": 1e6}  # one unit per token
    with ChatServer(answer=echo, delay=0.01) as server:
        with pytest.raises(DataError, match=r"`max_cost` = 1500 has no room for the next question, which can cost 5\d"):
            asked(server, tmp_path, questions(300), max_cost=1500.0, **prices)
        paid = sum(map(sum, server.tokens.values()))
        assert 1500 - 60 < paid <= 1500


def test_responses_that_were_lost_count_as_spent_in_the_budget(tmp_path: Path) -> None:
    prices = {"price_in": 1e6, "price_out": 1e6}
    server = ChatServer(answer=echo, share=1.0, faults=("cut JSON",))
    with server, pytest.raises(DataError, match=r"1 questions got no answer"):
        asked(server, tmp_path, questions(1), retries=1, **prices)
    most = sum(questions(1)[0].at_most)
    with Payments(tmp_path / "work", AskingLimits(**prices)) as payments:
        assert (payments.queries, payments.paid, payments.lost, payments.perhaps_paid) == (0, 0.0, 2, 2.0 * most)


def test_a_missing_key_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with ChatServer() as server:
        with pytest.raises(SpecError, match="`api_key_env` names the variable NO_SUCH_KEY, which has no value"):
            asked(server, tmp_path, questions(1), api_key_env="NO_SUCH_KEY")
        assert not server.attempts


def test_the_key_reaches_the_server_and_no_message_no_file_and_no_other_server(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    monkeypatch.setenv("JUDGE_KEY", "sk-canary-7391")
    with ChatServer(answer=lambda body: saying("you are sk-canary-7391"), key="sk-canary-7391") as server:
        texts, _ = asked(server, tmp_path, questions(2), api_key_env="JUDGE_KEY")
        assert texts == ["you are [key]"] * 2
        server.key = "sk-of-somebody-else"
        with pytest.raises(DataError, match=r"the key in JUDGE_KEY is not one that may use") as refused:
            asked(server, tmp_path, questions(3), api_key_env="JUDGE_KEY")
        with pytest.raises(DataError, match="set `api_key_env`"):
            asked(server, tmp_path, questions(3))
    assert "canary" not in str(refused.value)
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and b"canary" in f.read_bytes()]
