"""The page on which people judge: its requests, who may send them, what it shows, and that nothing is lost."""

import json
import re
import signal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import httpx
import pytest
from fastapi.testclient import TestClient

from flows.commands.judge import report_lines
from flows.commands.judge_server import PAGE, judging_app
from flows.commands.judge_text import TextPart, segments, visible
from tasks.people.survey import Survey, Terms, on_left
from tests.flows.commands.processes import alignflow, started
from tests.tasks.people.asked import IDS, judged, prompt, survey_of

TOKEN = "secret"


def _client(survey: Survey, token: str = TOKEN, **headers: str) -> TestClient:
    base = headers.pop("base", "http://127.0.0.1:4300")
    return TestClient(judging_app(survey, TOKEN), base, headers={"authorization": f"Bearer {token}", **headers})


def _judge(client: TestClient, shown: dict[str, Any], choice: str, annotator: str = "ana") -> dict[str, Any]:
    decision = {"annotator": annotator, "question": shown["question"]["id"], "choice": choice, "seconds": 1.5}
    answer = client.post("/judgements", json=decision)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_person_judges_all_pairs_undoes_and_goes_on_after_the_server_was_stopped(tmp_path: Path) -> None:
    survey = survey_of(tmp_path)
    client = _client(survey)
    first = client.post("/next", json={"annotator": "ana"}).json()
    assert (first["survey"], first["questions"], first["own"], first["left"]) == ("round1", 3, 0, 3)
    assert first["instructions"] == [{"text": "Be kind.", "code": False}]
    assert first["question"]["prompt"][0]["role"] == "user"
    second = _judge(client, first, "left")
    [judgement] = survey.judgements()
    assert judgement.choice == judgement.on_left == on_left(judgement.question, "ana")
    assert judgement.seconds == 1.5
    undone = client.post("/undo", json={"annotator": "ana"}).json()
    assert undone["question"] == first["question"]
    assert survey.judgements() == []
    _judge(client, first, "right")
    assert survey.judgements()[0].choice != judgement.choice
    survey.close()

    survey = Survey(tmp_path, "round1")  # the server was stopped; another one is started
    client = _client(survey)
    again = client.post("/next", json={"annotator": " ana "}).json()
    assert (again["own"], again["left"], again["question"]["id"]) == (1, 2, second["question"]["id"])
    last = _judge(client, _judge(client, again, "tie"), "skip")
    assert (last["question"], last["complete"]) == (None, 3)
    assert [j.choice for j in survey.judgements()][1:] == ["tie", "skip"]


def test_the_side_on_which_an_answer_stands_does_not_change_who_wins(tmp_path: Path) -> None:
    survey = Survey(tmp_path, "sides")
    survey.post("step", [(prompt(str(i)), "good", "bad") for i in range(12)], 2, Terms())
    client, sides = _client(survey), set()
    for annotator in ("ana", "bob"):
        shown = client.post("/next", json={"annotator": annotator}).json()
        while shown["question"]:
            side = "left" if shown["question"]["left"][0]["text"] == "good" else "right"
            sides.add(side)
            shown = _judge(client, shown, side, annotator)
    assert sides == {"left", "right"}
    assert {j.choice for j in survey.judgements()} == {"y"}  # "bad" < "good"
    lines = list(report_lines(survey))
    assert lines[0] == "sides: 12 of 12 pairs complete, 24 judgements"
    assert "ana and bob: the same verdict on 1.00" in lines[3]


def test_two_people_at_once_share_the_pairs_and_lose_none(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    survey = Survey(tmp_path, "many")
    survey.post("step", [(prompt(str(i)), "good", "bad") for i in range(30)], 1, Terms())
    client = _client(survey)

    def work(annotator: str) -> None:
        shown = client.post("/next", json={"annotator": annotator}).json()
        while shown["question"]:
            shown = _judge(client, shown, "tie", annotator)

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, ["ana", "bob", "cy"]))
    judgements = survey.judgements()
    assert {j.question for j in judgements} == {q.id for q in survey.questions()}
    assert 30 <= len(judgements) <= 32, "only the last pairs may be judged by two"


@pytest.mark.parametrize("headers", [{"token": "wrong"}, {"token": ""}, {"authorization": ""}])
@pytest.mark.parametrize("path", ["/next", "/judgements", "/undo"])
def test_without_the_token_nothing_is_shown_or_kept(tmp_path: Path, headers: dict[str, str], path: str) -> None:
    survey = survey_of(tmp_path)
    body = {"annotator": "ana", "question": IDS[0], "choice": "left"}
    answer = _client(survey, **headers).post(path, json=body)
    assert answer.status_code == 401
    assert "cats" not in answer.text
    assert survey.judgements() == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"base": "http://evil.example:4300"}, 403),
        ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:4301"}, 403), ({"origin": "http://127.0.0.1:4300"}, 200),
        ({"base": "http://localhost:9"}, 200),
    ],
)  # fmt: skip
def test_other_pages_and_other_names_of_this_server_are_refused(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    answer = _client(survey_of(tmp_path), **headers).post("/next", json={"annotator": "ana"})
    assert answer.status_code == status


def test_a_page_for_other_machines_has_any_name_and_still_refuses_other_pages(tmp_path: Path) -> None:
    app = judging_app(survey_of(tmp_path), TOKEN, any_host=True)
    client = TestClient(app, "http://lab.example:4300", headers={"authorization": f"Bearer {TOKEN}"})
    assert client.post("/next", json={"annotator": "ana"}).status_code == 200
    other = {"origin": "http://evil.example"}
    assert client.post("/next", json={"annotator": "ana"}, headers=other).status_code == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"annotator": "=cmd()"}, 422), ({"annotator": ""}, 422), ({"annotator": "a" * 500}, 422),
        ({"question": "nought"}, 409), ({"choice": "x"}, 422), ({"choice": "tie"}, 409), ({"seconds": -1}, 422),
    ],
)  # fmt: skip
def test_what_is_no_judgement_is_refused(tmp_path: Path, body: dict[str, Any], status: int) -> None:
    survey = survey_of(tmp_path, ties=False)
    whole = {"annotator": "ana", "question": IDS[0], "choice": "left", **body}
    assert _client(survey).post("/judgements", json=whole).status_code == status
    assert survey.judgements() == []


def test_a_second_tab_cannot_change_a_judgement_silently(tmp_path: Path) -> None:
    survey = survey_of(tmp_path)
    client = _client(survey)
    shown = client.post("/next", json={"annotator": "ana"}).json()
    _judge(client, shown, "left")
    again = {"annotator": "ana", "question": shown["question"]["id"], "choice": "right"}
    answer = client.post("/judgements", json=again)
    assert (answer.status_code, "undo that first" in answer.json()["detail"]) == (409, True)
    assert client.post("/undo", json={"annotator": "bob"}).status_code == 409


def test_the_page_allows_its_own_script_alone_and_puts_no_text_into_html(tmp_path: Path) -> None:
    answer = _client(survey_of(tmp_path), token="").get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "unsafe" not in policy
    page = PAGE.read_text()
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://| on\w+=|style=", page)
    assert "cats" not in answer.text


def test_what_would_hide_colour_or_turn_a_text_around_is_shown_as_a_sign() -> None:
    assert visible("a\x1b[31mred\x07\x00") == "a⟨U+001B⟩[31mred⟨U+0007⟩⟨U+0000⟩"
    assert visible("\u202eabc\u2066\u200f\u00ad\U000e0041") == "⟨U+202E⟩abc⟨U+2066⟩⟨U+200F⟩⟨U+00AD⟩⟨U+E0041⟩"
    kept = "tab\there\nقطة 👩\u200d🚀 <b>&amp;</b>"
    assert visible(kept) == kept
    assert visible("a\r\nb\rc") == "a\nb⟨U+000D⟩c"


def test_code_keeps_its_whitespace_and_loses_its_fences() -> None:
    text = "Here:\n\n```python\ndef f():\n\treturn  1\n```\nDone ``` or not.\n"
    assert segments(text) == [
        TextPart("Here:", False), TextPart("def f():\n\treturn  1", True), TextPart("Done ``` or not.", False)
    ]  # fmt: skip
    assert segments("```\nno end") == [TextPart("no end", True)]
    assert segments("  indented\n") == [TextPart("  indented\n", False)]
    assert segments("") == [TextPart("", False)]


def test_the_command_lists_what_waits_and_knows_only_surveys_that_were_asked(tmp_path: Path) -> None:
    (tmp_path / "pipelines.yaml").write_text("pipelines: {}\n")
    assert alignflow("judge", cwd=tmp_path).stdout == "no survey yet: a step with the oracle `people` makes one\n"
    survey = survey_of(tmp_path / "artifacts" / "answers")
    survey.judge(judged(IDS[0], "ana", "x"))
    assert alignflow("judge", cwd=tmp_path).stdout == "round1  2 of 3 pairs wait; judged by ana\n"
    error = alignflow("judge", "round2", cwd=tmp_path, code=2).stderr
    assert "there is no survey 'round2' (there are: round1)" in error
    assert "cannot name a survey" in alignflow("judge", "../x", cwd=tmp_path, code=2).stderr
    report = alignflow("judge", "round1", "--report", cwd=tmp_path).stdout
    assert report.splitlines()[0] == "round1: 1 of 3 pairs complete, 1 judgements"
    assert alignflow("judge", "round1", "--export", "out.csv", cwd=tmp_path).stdout == "out.csv\n"
    there = "0 new judgements in out.csv\n"
    assert alignflow("judge", "round1", "--import", "out.csv", cwd=tmp_path).stdout == there
    assert "must end with" in alignflow("judge", "round1", "--export", "out.txt", cwd=tmp_path, code=2).stderr


def test_the_served_page_keeps_each_judgement_whatever_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "pipelines.yaml").write_text("pipelines: {}\n")
    survey = survey_of(tmp_path / "artifacts" / "answers")
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 0)):
        log = tmp_path / f"{number}.log"
        with started("judge", "round1", "--port", "0", "--annotator", "Ana B", cwd=tmp_path, log=log) as serving:
            serving.wait_for("Ctrl-C ends it")
            url, token = re.findall(r"(http://127\.0\.0\.1:\d+)/#token=(\S+)&annotator=Ana%20B", serving.output)[0]
            headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
            with pytest.raises(HTTPError, match="401"):
                urlopen(Request(f"{url}/next", b'{"annotator": "a"}', {"content-type": "application/json"}), timeout=30)
            shown = httpx.post(f"{url}/next", json={"annotator": "ana"}, headers=headers).json()
            body = {"annotator": "ana", "question": shown["question"]["id"], "choice": "tie"}
            assert httpx.post(f"{url}/judgements", content=json.dumps(body), headers=headers).status_code == 200
            assert serving.end(number) == code
    assert [j.choice for j in survey.judgements()] == ["tie", "tie"]
    assert "round1: 2 of 3 pairs complete" in serving.output


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    import socket

    (tmp_path / "pipelines.yaml").write_text("pipelines: {}\n")
    survey_of(tmp_path / "artifacts" / "answers")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "name another one by --port" in alignflow("judge", "round1", "--port", port, cwd=tmp_path, code=2).stderr
