"""The page on which people judge, in a browser: by keys alone, in a narrow window, with texts that attack it."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from flows.commands.judge_server import judging_app
from tasks.people.survey import Survey, Terms, on_left
from tests.flows.commands.browser import CHROMIUM, Tab, tab
from tests.tasks.people.asked import prompt

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]

ATTACK = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><style>body{display:none}</style>"
    "<a href='javascript:hacked=3'>click</a> \u202eturned\u202c \x1b[31mred\x1b[0m A is better"
)
CODE = "```python\ndef f(x):\n\tif x:\n        return  1\n```"
PAIRS = [
    (prompt("a <b>prompt</b> & more"), ATTACK, CODE), (prompt("long"), "word " * 4000, "x" * 3000),
    (prompt("قطة"), "قطة هي حيوان صغير.", "A cat."), (prompt("four"), "one", "two"), (prompt("five"), "1", "2"),
]  # fmt: skip
SIZES = {"wide": (1440, 900), "narrow": (400, 800)}


@pytest.fixture
def survey(tmp_path: Path) -> Survey:
    survey = Survey(tmp_path, "browsed")
    survey.post("step", PAIRS, 1, Terms("Choose the better one.\nA short answer may be as good as a long one."))
    return survey


@pytest.fixture
def page(tmp_path: Path, survey: Survey) -> Iterator[Tab]:
    """The page for `ana`, served by this process."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    server = uvicorn.Server(uvicorn.Config(judging_app(survey, "secret"), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with tab(tmp_path) as opened:
            address = f"http://127.0.0.1:{listening.getsockname()[1]}/#token=secret&annotator=ana"
            opened.call("Page.navigate", url=address)
            opened.wait_for("document.title === 'Judge browsed'")
            yield opened
    finally:
        server.should_exit = True
        thread.join()


def _pictures(page: Tab, name: str) -> None:
    """Pictures for a person to look at, where PICTURES names a folder."""
    if folder := os.environ.get("PICTURES"):
        for size, (width, height) in SIZES.items():
            for dark in (False, True):
                page.size(width, height, dark=dark)
                page.picture(Path(folder) / f"{name}-{size}-{'dark' if dark else 'light'}.png")


def test_all_pairs_are_judged_by_keys_and_no_text_does_anything(page: Tab, survey: Survey) -> None:
    assert page.js("location.hash") == "", "the token does not stay in the address"
    keys, seen = iter(["a", "b", "t", "s"]), []
    while page.js("!document.getElementById('pair').hidden"):
        question = page.js("question.id")
        seen.append(page.js("document.getElementById('left').innerText + document.getElementById('right').innerText"))
        _pictures(page, f"pair{len(seen)}")
        page.size(*SIZES["narrow"])
        assert page.js("document.documentElement.scrollWidth") <= 400
        page.press("x")
        page.press(next(keys, "A"))
        page.wait_for(f"(!question || question.id !== '{question}') && !busy")
    _pictures(page, "done")
    assert page.js("typeof hacked") == "undefined"
    assert page.js("document.querySelectorAll('main script, main img, main style, main a').length") == 0
    assert any("<script>window.hacked = 1</script>" in text and "⟨U+202E⟩turned" in text for text in seen)
    assert any("def f(x):\n\tif x:\n        return  1" in text for text in seen), "code keeps its whitespace"
    judgements = survey.judgements()
    sides = ["left" if j.choice == j.on_left else j.choice for j in judgements]
    assert sides == ["left", "x" if judgements[1].on_left == "y" else "y", "tie", "skip", "left"]
    assert all(j.on_left == on_left(j.question, "ana") for j in judgements)
    assert not [e for e in page.events if e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] == "error"]
    page.press("u")
    page.wait_for("!!question && !busy")
    assert len(survey.judgements()) == 4
    assert page.js("document.getElementById('status').textContent").startswith("Your last judgement is taken back")


def test_what_the_server_did_not_take_stays_on_the_page(page: Tab, survey: Survey) -> None:
    question = page.js("question.id")
    page.js("window.kept = fetch; window.fetch = () => Promise.reject(new TypeError('Failed to fetch')); 0")
    page.press("a")
    page.wait_for("document.getElementById('status').classList.contains('wrong')")
    assert "was not saved" in page.js("document.getElementById('status').textContent")
    assert (page.js("question.id"), survey.judgements()) == (question, [])
    page.js("window.fetch = window.kept; 0")
    page.press("a")
    page.wait_for(f"question.id !== '{question}'")
    assert [j.question for j in survey.judgements()] == [question]


def test_everything_that_can_be_used_has_a_name_for_those_who_do_not_see_it(page: Tab) -> None:
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    found = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")}
    buttons = {name for role, name in found if role == "button"}
    assert {"A is better A", "B is better B", "Tie T", "Skip S", "Undo U"} == buttons
    assert {("region", "Prompt"), ("region", "Answer A"), ("region", "Answer B")} <= found
    assert ("progressbar", "Pairs that you have judged") in found
    assert ("group", "Your judgement") in found
