"""The page of one run, read from its file and from records: a cached run's page holds what a fresh one's does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from random import Random

from flows.reporting.answers import AnswerPair, ShownAnswer, compared_answers
from flows.reporting.comparability import measurement_facts
from flows.reporting.comparison import short_value
from flows.reporting.report.content import (
    AnswerCard,
    PageAnswer,
    PageAnswers,
    PageCell,
    PageRow,
    PageTable,
    RunPage,
    Tile,
    estimate_cell,
    results_table,
)
from flows.reporting.report.graph import graph_picture
from flows.reporting.report.steps import cost_tables, environment_facts, steps_table
from flows.reporting.report.svg import page_figures
from flows.reporting.results import (
    NOTHING,
    ResultRow,
    RunResults,
    columns,
    estimate_text,
    headlines,
    main_metric,
    run_results,
)
from flows.store.finished import FinishedStep, finished_steps
from flows.store.runs import Run
from flows.store.store import Store
from flows.system.durations import seconds
from tasks.message import conversation_text

MOST_BYTES = 800_000
"""Of all answers on a page; of more prompts, the best, the worst and random ones are shown."""
CARD_BYTES = 900
"""Of a prompt's card without its texts."""
MOST_TABLES = 24
"""Evaluations, and trainings, whose every number a page has: the last ones."""
ENDS = 20
"""Best and worst prompts that are kept of an evaluation whose answers are too many."""
TRAINING = "training"
"""How the names of the figures of training curves begin."""


def page_of_run(
    store: Store, run: Run, pictures: Sequence[Path], label: str = "", *, answers: bool = True
) -> RunPage:  # fmt: skip
    """The page of a run.

    pictures: its figures, as PNG files with SVG files beside them; label: what it is called among several runs;
    answers: whether the page has them.
    """
    steps = finished_steps(store, run)
    results = run_results(store, steps)
    figures = page_figures([*pictures])
    problems = [f"{s.title}: {s.reason}" for s in run.steps.values() if s.state in ("failed", "waiting")]
    rows = [t for t in (_main_table(results), _other_table(results)) if t]
    reports = headlines(steps)
    return RunPage(
        id=run.id, title=run.title, label=label or run.title, about=run.about, sentence=_sentence(run),
        status=run.status, facts=tuple(_facts(run)), problems=tuple(problems),
        warnings=(*run.notices, *results.warnings()),
        notices=tuple(results.notices()), tiles=tuple(_tiles(results)),
        measured=tuple(measurement_facts(store, reports[-1].record).items()) if reports else (),
        graph=graph_picture(run, steps), results=tuple(rows),
        metrics=tuple(map(_metrics_table, results.all_rows[-MOST_TABLES:])),
        figures=tuple(f for f in figures if not f.name.startswith(TRAINING)),
        training=tuple(f for f in figures if f.name.startswith(TRAINING)),
        curves=tuple(_curves(steps))[-MOST_TABLES:], answers=_answers(store, steps) if answers else None,
        parameters=_parameters(run), costs=tuple(cost_tables(store, steps)), steps=steps_table(run, steps),
        environment=tuple(environment_facts(steps)),
    )  # fmt: skip


def _sentence(run: Run) -> str:
    """`3 rounds, 51 steps: 48 run, 3 cached; done in 56 s.`"""
    own = [step.state for step in run.steps.values() if not step.carried]
    made, hits = own.count("made"), own.count("hit")
    left = len(own) - made - hits
    rounds = f"{run.rounds} rounds, " if run.rounds > 1 else ""
    counts = f"{len(own)} steps: {made} run, {hits} cached{f', {left} not done' if left else ''}"
    return f"{rounds}{counts}; {_ending(run)}."


def _ending(run: Run) -> str:
    if not run.ended:
        return f"still {run.status}"
    took = (datetime.fromisoformat(run.ended) - datetime.fromisoformat(run.started)).total_seconds()
    return f"{run.status} in {seconds(took) if took >= 1 else '1 s'}"


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield "run", run.id
    yield "began", run.started.replace("T", " ").replace("+00:00", " UTC")
    if run.file:
        yield "wiring", f"{run.pipeline} in {Path(run.file).name}"


def _main_table(results: RunResults) -> PageTable | None:
    rows, by_round = results.main_rows, any(row.round for row in results.rows)
    caption = f"The headline{' by round' if by_round else ''}; intervals are 95%"
    return results_table(rows, results, caption) if columns(rows) else None


def _other_table(results: RunResults) -> PageTable | None:
    return results_table(results.others, results, "Other evaluations") if columns(results.others) else None


def _metrics_table(row: ResultRow) -> PageTable:
    """Every number of one evaluation, with its interval, the prompts or pairs behind it, and its unit."""
    rows = []
    for name, e in row.metrics.items():
        value = NOTHING if math.isnan(e.value) else f"{e.value:.4f}"
        interval = NOTHING if e.low is None or e.high is None else f"{e.low:.4f} – {e.high:.4f}"
        cells = (PageCell(name, "", "code"), *(PageCell(t, "", "number") for t in (value, interval, f"{e.n:,}")))
        rows.append(PageRow((*cells, PageCell(e.unit)), "last" if e.metric.ranks else ""))
    return PageTable(row.label, ("metric", ">value", ">95% interval", ">n", "unit"), tuple(rows))


def _tiles(results: RunResults) -> Iterator[Tile]:
    """The columns of the last headline, each with its change since the baseline."""
    if not results.rows:
        return
    last, base = results.rows[-1].metrics, results.base_check.metrics if results.base_check else {}
    main = main_metric(last)
    for name, metric in columns([results.rows[-1]]).items():
        cell, change = estimate_cell(last[name]), ""
        if name in base and not math.isnan(base[name].value + last[name].value):
            change = f"base {estimate_text(base[name].value, None, None, metric.format)}"
        yield Tile(metric.column, cell.text, cell.more, change, name == main)


def _curves(steps: Sequence[FinishedStep]) -> Iterator[PageTable]:
    """Where every curve of each step that trained began and ended."""
    for step in steps:
        if step.trained:
            first, last = step.record.curves[0], step.record.curves[-1]
            names = dict.fromkeys(name for row in (first, last) for name in row if name != "step")
            rows = tuple(
                PageRow((PageCell(name, "", "code"), *(PageCell(_number(row.get(name)), "", "number")
                                                       for row in (first, last))))
                for name in names
            )  # fmt: skip
            caption = f"{step.title}: {len(step.record.curves)} rows, to step {last.get('step', 0):,.0f}"
            yield PageTable(caption, ("name", ">first", ">last"), rows)


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4g}"


def _parameters(run: Run) -> tuple[tuple[str, str], ...]:
    return tuple((name, short_value(value)) for name, value in run.parameters.items() if value is not None)


def _answers(store: Store, steps: Sequence[FinishedStep]) -> PageAnswers | None:
    """The answers of the last headline that compared some; else of the last other evaluation."""
    reports = [s for s in steps if s.record.kind == "Report"]
    for step in [*reversed(headlines(steps)), *(s for s in reversed(reports) if not s.headline)]:
        compared = compared_answers(store, step.record)
        if compared and compared.pairs:
            cards = _fitting(_cards(compared.pairs, compared.report))
            return PageAnswers(step.title, compared.oracle, len(compared.pairs), tuple(cards))
    return None


def _cards(pairs: Sequence[AnswerPair], seed: str) -> list[AnswerCard]:
    """A card for each pair, with its place in every order; those without P come last in `best` and `worst`."""
    every = range(len(pairs))
    p = [pair.p for pair in pairs]
    best = sorted(every, key=lambda i: (p[i] is None, -(p[i] or 0.0)))
    worst = sorted(every, key=lambda i: (p[i] is None, p[i] or 0.0))
    mixed = Random(seed).sample(every, len(pairs))
    places: list[Mapping[int, int]] = [{i: at for at, i in enumerate(order)} for order in (best, worst, mixed)]
    return [
        AnswerCard(conversation_text(pair.prompt), _answer(pair.before), _answer(pair.after), pair.p,
                   *(order[i] for order in places))
        for i, pair in enumerate(pairs)
    ]  # fmt: skip


def _answer(answer: ShownAnswer) -> PageAnswer:
    score = "" if answer.score is None else f"{answer.score:.2f}".replace("-", "−")
    return PageAnswer(answer.text, score, answer.finished)


def _fitting(cards: list[AnswerCard]) -> list[AnswerCard]:
    """All cards, or as many as the page takes: the best, the worst, then random ones."""

    def rank(card: AnswerCard) -> tuple[bool, int]:
        return min(card.best, card.worst) >= ENDS, card.random

    left, kept = MOST_BYTES, set[int]()
    for card in sorted(cards, key=rank):
        left -= CARD_BYTES + sum(_bytes(text) for text in (card.prompt, card.before.text, card.after.text))
        if left >= 0:
            kept.add(card.random)
    return [card for card in cards if card.random in kept]


def _bytes(text: str) -> int:
    """Of a text as the page has it."""
    return len(escape(text).encode())
