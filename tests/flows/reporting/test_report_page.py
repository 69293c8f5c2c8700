"""The report page: it escapes what models write, fetches nothing, and has what a reader looks for, for any run."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flows.commands.report import report_json, report_text
from flows.reporting.report import run_page as run_pages
from flows.reporting.report import svg
from flows.reporting.report.page import report_file, try_to_write_report, write_report
from flows.reporting.report.run_page import page_of_run
from flows.store.runs import Run, Runs, RunStep
from flows.store.store import Store
from tasks.contract import SpecError
from tests.flows.commands.processes import alignflow, printed
from tests.flows.evaluated import evaluated
from tests.flows.fabricated import BETTER, Fabricated, fabricate

ATTACK = (
    "</script><script>hacked = 1</script>]]> <img src=x onerror='hacked=2'> \"quoted\" & \u2028\u202e {{ 7 * 7 }} -->"
)
VOID = frozenset({"meta", "link", "input", "img", "br", "line", "path", "rect", "use"})


class Page(HTMLParser):
    """A page as a browser reads it: its elements with their attributes, and the text of some of them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        """(Id of the section, text) in the order of the page."""
        self._open: list[str] = []
        self._section = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag == "section":
            self._section = given["id"]
        self._open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & {*self._open}:
            self.texts.append((self._section, data))

    def text(self, section: str | None = None) -> str:
        return " ".join(" ".join(t for s, t in self.texts if section in (None, s)).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [given for name, given in self.elements if name == tag]

    @property
    def sections(self) -> list[str]:
        return [given["id"] for given in self.all("section")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabricated]:
    """A finished run one of whose answers attacks the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BETTER, "swan", ATTACK)
        yield fabricate(tmp_path_factory.mktemp("reported"), hits=["base"])


@pytest.fixture(scope="module")
def html(made: Fabricated) -> str:
    return write_report(made.store, [made.run]).read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_what_a_model_wrote_stays_text(page: Page, html: str) -> None:
    assert len(page.all("script")) == 1
    assert [i for i in page.all("img") if not i["src"].startswith("data:")] == []
    assert not [given for _, given in page.elements if "onerror" in given]
    [text] = [t for section, t in page.texts if section == "answers" and "hacked = 1" in t]
    assert text.startswith(ATTACK)
    assert "<script>hacked" not in html


def test_the_page_fetches_nothing_and_forbids_itself_to(page: Page, html: str) -> None:
    for _, given in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data"):
            assert given.get(name, "#").startswith(("#", "data:")), given
    assert not re.findall(r"url\((?!#)|@import|https?://", html)
    [policy] = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert len(html) < 3_000_000


def test_a_reader_finds_warnings_first_then_numbers_figures_answers_and_lineage(page: Page, made: Fabricated) -> None:
    assert page.sections == [
        "warnings", "graph", "results", "figures", "answers", "training", "parameters", "cost", "lineage",
    ]  # fmt: skip
    links = [a["href"].removeprefix("#") for a in page.all("a") if a["href"] != "#top"]
    assert links == page.sections
    assert "base, round 1, round 2: only 2 prompts (fewer than 30)" in page.text("warnings")
    assert "round 2 2 0.710 0.680–0.740" in page.text("results")
    assert made.records["policy@2"].content in page.text("lineage")
    assert "2 rounds, 22 steps" in page.text()
    assert "P(after wins) 0.90" in page.text("answers")


def test_every_id_of_the_page_is_there_once(page: Page) -> None:
    ids = [given["id"] for _, given in page.elements if "id" in given]
    assert len(ids) == len({*ids})
    used = {given[n].removeprefix("#") for _, given in page.elements for n in ("href", "xlink:href") if n in given}
    assert used - {*ids} == set()


def test_the_same_run_gives_the_same_bytes_and_a_cached_one_the_same_numbers_and_answers(made: Fabricated) -> None:
    first = write_report(made.store, [made.run]).read_bytes()
    assert write_report(made.store, [made.run]).read_bytes() == first
    fresh = page_of_run(made.store, made.run, ())
    steps = {id: replace(step, state="hit") for id, step in made.run.steps.items()}
    cached = page_of_run(made.store, replace(made.run, id="20990101-000000-sppo-0000", steps=steps), ())
    assert (fresh.results, fresh.answers, fresh.curves) == (cached.results, cached.answers, cached.curves)
    assert "22 steps: 0 run, 22 cached" in cached.sentence


def test_orders_of_answers_are_by_p_and_always_the_same(made: Fabricated) -> None:
    answers = page_of_run(made.store, made.run, ()).answers
    assert answers
    assert [(card.p, card.best, card.worst) for card in answers.cards] == [(0.9, 0, 1), (0.25, 1, 0)]
    assert {card.random for card in answers.cards} == {0, 1}


def test_of_too_many_answers_the_best_the_worst_and_random_ones_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.reporting.answers import AnswerPair, ShownAnswer

    answer = ShownAnswer("x" * 100, None, True)
    prompt = ({"role": "user", "content": "?"},)
    pairs = [AnswerPair(prompt, answer, answer, None if i == 7 else i / 1000) for i in range(1000)]
    monkeypatch.setattr(run_pages, "MOST_BYTES", 100 * (201 + run_pages.CARD_BYTES))
    shown = run_pages._fitting(run_pages._cards(pairs, "seed"))
    ps = [card.p for card in shown]
    assert len(shown) == 100
    assert ps == sorted(ps, key=lambda p: p or 0), "in the order of the table"
    assert {0.0, 0.001, 0.999, 0.998} <= {*ps}
    assert 0.2 < sum(p or 0 for p in ps) / 100 < 0.8


def test_a_run_that_failed_midway_shows_where_and_what_was_not_run(store: Store) -> None:
    runs = Runs(store)
    run = runs.begin("broken", {"k": 5})
    run.about = "Fails <early>"
    run.steps = {
        "prompts": RunStep("prompts", ("prompts",), "load", "prompts", state="made", seconds=1.0),
        "policy@1": RunStep("policy@1", ("policy@1",), "fit", "round 1 · policy", 1, "failed", reason="loss is <nan>",
                            fed_by=("prompts",)),
        "report@1": RunStep("report@1", ("report@1",), "measure", "round 1 · report", 1, "skipped",
                            fed_by=("policy@1",)),
    }  # fmt: skip
    runs.end(run, "failed")
    found = Page(write_report(store, [run]).read_text())
    assert found.sections == ["warnings", "graph", "parameters", "cost", "lineage"]
    assert "round 1 · policy: loss is <nan>" in found.text("warnings")
    assert "Fails <early>. 3 steps: 1 run, 0 cached, 2 not done; failed in" in found.text()
    picture = page_of_run(store, run, ()).graph
    assert picture
    assert [box.states for box in picture.boxes] == [("made",), ("failed",), ("skipped",)]
    assert len(picture.arrows) == 2


def test_a_run_without_rounds_answers_or_even_steps_has_a_page(store: Store) -> None:
    runs = Runs(store)
    run = runs.begin("export", {})
    runs.end(run, "done")
    found = Page(write_report(store, [run]).read_text())
    assert found.sections == ["parameters", "cost", "lineage"]
    assert "0 steps: 0 run, 0 cached; done in" in found.text()


def test_a_run_of_thousands_of_steps_has_a_page_that_can_be_sent(store: Store) -> None:
    runs = Runs(store)
    run = runs.begin("long", {})
    for number in range(1, 3001):
        id = f"policy@{number}"
        before = (f"policy@{number - 1}",) if number > 1 else ()
        run.steps[id] = RunStep(id, (id,), "fit", f"round {number} · policy", number, "made", "a" * 32, fed_by=before)
    runs.end(run, "done")
    file = write_report(store, [run])
    assert file.stat().st_size < 3_000_000
    assert "The last 1,000 of 3,000 steps" in Page(file.read_text()).text("lineage")


def test_several_runs_are_ranked_with_their_differences_and_link_their_own_pages(store: Store) -> None:
    good = evaluated(store, "good", [[0.9, 0.8, 0.85, 0.8, 0.9, 0.85]], parameters={"eta": 1.0})
    fair = evaluated(store, "fair", [[0.6, 0.52, 0.54, 0.51, 0.62, 0.55]], parameters={"eta": 2.0})
    write_report(store, [good])
    file = write_report(store, [fair, good])
    assert file == report_file(store, [good, fair])
    found = Page(file.read_text())
    assert found.sections == ["warnings", "results", "differences", "figures", "parameters", "runs"]
    assert "good 1 1 6 0.850" in found.text("results")
    assert "fair 2 1 6 0.557" in found.text("results")
    assert "good − fair +0.293" in found.text("differences")
    assert "good is better" in found.text("differences")
    assert "eta 1.0 2.0" in found.text("parameters")
    ids = [given["id"] for _, given in found.elements if "id" in given]
    assert len(ids) == len({*ids})
    assert f"{good.id}.html" in [a["href"] for a in found.all("a")]
    assert f"{fair.id}.html" not in [a["href"] for a in found.all("a")], "it has no page yet"


def test_runs_that_are_not_comparable_are_refused_unless_they_are_not_ranked(store: Store) -> None:
    several = [evaluated(store, "a", [[0.5] * 6]), evaluated(store, "b", [[0.5] * 6], oracle="toy_judge")]
    with pytest.raises(SpecError, match="not comparable"):
        write_report(store, several)
    found = Page(write_report(store, several, ranked=False).read_text())
    assert "not ranked: measured with different oracle" in found.text("warnings")
    assert "differences" not in found.sections


def test_the_command_names_the_file_and_refuses_what_is_no_run_or_no_file(store: Store, tmp_path: Path) -> None:
    run = evaluated(store, "good", [[0.9, 0.8, 0.85, 0.8, 0.9, 0.85]])
    out = tmp_path / "page.html"
    text = printed(lambda console: report_text(store, ["good"], console, ranked=True, out=out))
    assert re.search(rf"report +{re.escape(str(out))} +\({run.id}; [\d,]+ KB, opens in a browser\)", text)
    facts = json.loads(json.dumps(report_json(store, ["last"], ranked=True, out=None)))
    assert facts["report"] == str(report_file(store, [run]))
    with pytest.raises(SpecError, match=r"--out .* is a folder; name a file"):
        report_json(store, ["last"], ranked=True, out=tmp_path)
    failed = alignflow("report", "nothing", "--artifacts", str(store.root), code=2)
    assert "there is no run of 'nothing'" in failed.stderr


def test_a_report_that_cannot_be_written_stops_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run("20990101-000000-x-0000", "x", {}, started="not a time", ended="nor this")
    assert try_to_write_report(store, run) is None
    assert "the report of run 20990101-000000-x-0000 was not written" in caplog.text


FIGURE = """<?xml version="1.0"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt" viewBox="0 0 90 45" xmlns="http://www.w3.org/2000/svg">
<metadata><a href="http://x"/></metadata><defs><path id="glyph" d="M0 0"/><clipPath id="clip"/></defs>
<g id="unused" clip-path="url(#clip)"><use xlink:href="#glyph"/><!-- 0.5 --></g></svg>"""


def test_figures_become_parts_of_the_page_whose_ids_do_not_meet(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(b"pixels")
        (tmp_path / f"{name}.svg").write_text(FIGURE)
    first, second = svg.page_figures([tmp_path / "a.png", tmp_path / "b.png"])
    assert first.markup.startswith('<svg viewBox="0 0 90 45" aria-hidden="true">')
    assert 'id="f0-glyph"' in first.markup
    assert 'href="#f1-glyph"' in second.markup
    assert "url(#f1-clip)" in second.markup
    assert not {"unused", "http", "0.5", "xlink"} & {*re.findall(r"[\w.]+", first.markup)}


def test_large_figures_are_pictures_and_those_that_are_too_many_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(b"pixels" * 20)
        (tmp_path / f"{name}.svg").write_text(FIGURE)
    monkeypatch.setattr(svg, "MOST_LINES", 10)
    monkeypatch.setattr(svg, "MOST", 300)
    first, second = svg.page_figures([tmp_path / "a.png", tmp_path / "b.png"])
    assert first.markup.startswith('<img alt="" src="data:image/png;base64,')
    assert (second.name, second.markup) == ("b", "")
