"""The report page in a browser: read by keys alone, in a narrow window, light and dark, opened from a file."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flows.reporting.report.content import AnswerCard, PageAnswer, PageAnswers
from flows.reporting.report.page import html_of_run
from flows.reporting.report.run_page import page_of_run
from tests.flows.commands.browser import CHROMIUM, Tab, tab
from tests.flows.fabricated import fabricate

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> " + "long" * 200
N = 30
SHOWN = "[...document.querySelectorAll('.card:not([hidden]) .prompt')].map((e) => e.textContent)"
SIZES = {"wide": (1440, 900), "narrow": (400, 800)}


def _answers() -> PageAnswers:
    """Thirty prompts, the later the better; the script must not run what one of them says."""
    before, texts = PageAnswer("before", "", True), [ATTACK if i == 3 else f"answer {i}." for i in range(N)]
    return PageAnswers("report", "oracle", N, tuple(
        AnswerCard(f"prompt {i}", before, PageAnswer(text, "", True), i / N, N - 1 - i, i, (7 * i) % N)
        for i, text in enumerate(texts)
    ))  # fmt: skip


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """The page of a run with thirty prompts, opened from its file."""
    folder = tmp_path_factory.mktemp("browsed")
    made = fabricate(folder)
    file = folder / "report.html"
    page = page_of_run(made.store, made.run, sorted(made.store.inside("figures", made.run.id).glob("*.png")))
    file.write_text(html_of_run(replace(page, answers=_answers())))
    with tab(folder) as browser:
        browser.size(*SIZES["wide"])
        browser.call("Page.navigate", url=file.as_uri())
        browser.wait_for("document.readyState === 'complete' && !document.getElementById('controls').hidden")
        yield browser


def _choose(page: Tab, order: str) -> list[str]:
    page.js(f"order.value = '{order}'; order.dispatchEvent(new Event('input'))")
    shown: list[str] = page.js(SHOWN)
    return shown


def test_nothing_of_an_answer_runs_and_the_console_is_silent(opened: Tab) -> None:
    assert opened.js("typeof window.hacked") == "undefined"
    wrong = [e for e in opened.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert wrong == []


def test_twenty_answers_are_shown_in_the_order_that_is_chosen(opened: Tab) -> None:
    assert _choose(opened, "best") == [f"prompt {N - 1 - i}" for i in range(20)]
    assert _choose(opened, "worst") == [f"prompt {i}" for i in range(20)]
    mixed = _choose(opened, "random")
    assert mixed[:3] == ["prompt 0", "prompt 13", "prompt 26"], "whose places are 0, 1 and 2: 7·13 = 91 = 1 mod 30"
    assert _choose(opened, "first")[:2] == ["prompt 0", "prompt 1"]


def test_the_search_looks_in_all_prompts_and_answers(opened: Tab) -> None:
    opened.js("search.value = 'ANSWER 29.'; search.dispatchEvent(new Event('input'))")
    assert opened.js(SHOWN) == ["prompt 29"]
    assert opened.js("count.textContent") == "1 of 1 prompts"
    opened.js("search.value = ''; search.dispatchEvent(new Event('input'))")
    assert opened.js("count.textContent") == "20 of 30 prompts"


def test_more_answers_come_by_a_key_and_the_focus_goes_to_the_first_of_them(opened: Tab) -> None:
    opened.js("more.focus()")
    opened.call(
        "Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
    )
    opened.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter", windowsVirtualKeyCode=13)
    assert len(opened.js(SHOWN)) == N
    assert opened.js("document.activeElement.querySelector('.prompt').textContent") == "prompt 20"
    assert opened.js("more.hidden")


def test_a_step_of_the_graph_that_has_the_focus_shows_what_feeds_it(opened: Tab) -> None:
    feeding = "document.querySelectorAll('.arrow.on').length"
    opened.js("document.querySelector('.step').focus()")
    assert opened.js(feeding) > 0
    opened.js("document.querySelector('.step').blur()")
    assert opened.js(feeding) == 0


@pytest.mark.parametrize("size", SIZES)
def test_the_page_is_never_wider_than_the_window(opened: Tab, size: str) -> None:
    opened.size(*SIZES[size])
    opened.js("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert opened.js("document.documentElement.scrollWidth <= innerWidth")
    if folder := os.environ.get("PICTURES"):
        opened.picture(Path(folder) / f"report-{size}.png")


def test_colours_follow_the_system_until_the_reader_chooses(opened: Tab) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light = opened.js(paper)
    opened.size(*SIZES["wide"], dark=True)
    dark = opened.js(paper)
    assert light != dark
    opened.wait_for("theme.textContent === 'Light'")
    opened.js("theme.click()")
    assert opened.js(paper) == light
    assert opened.js("theme.getAttribute('aria-pressed')") == "false"
