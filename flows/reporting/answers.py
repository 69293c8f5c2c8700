"""Answers before and after: those of the baseline and of the new policy to the same prompts, with the oracle's P.

Everything is read from the tables of an evaluation, so the answers of a cached run are those of a fresh one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.reporting.comparability import choice_of
from flows.store.lineage import origin
from flows.store.records import Record
from flows.store.store import Store
from flows.store.views import RecordViews
from tasks.declarations import StepView

ANSWERS = frozenset({"Completions", "Scores", "WinRates"})
"""Kinds of tables whose rows are answers."""


@dataclass(frozen=True)
class ShownAnswer:
    """One answer. `score`: by the oracle, None where it gave none."""

    text: str
    score: float | None
    finished: bool


@dataclass(frozen=True)
class AnswerPair:
    """One answer of each side to a prompt, the first two that the oracle compared.

    `p`: P(the new policy's answer beats the base's) by the oracle of the evaluation; None where it compared none.
    """

    prompt: tuple[Mapping[str, str], ...]
    before: ShownAnswer
    after: ShownAnswer
    p: float | None


@dataclass(frozen=True)
class ComparedAnswers:
    """A pair of answers for each prompt of an evaluation, in the order of its table."""

    report: str
    """Content digest of the evaluation that the pairs come from."""
    pairs: tuple[AnswerPair, ...]
    oracle: str
    """The oracle that gave `p`; empty where it is unknown."""


def compared_answers(store: Store, record: Record) -> ComparedAnswers | None:
    """The answers of the evaluation that a record is, or that used or measured it; None where there are none."""
    views = RecordViews(store)
    report = _report_of(views, store, record)
    evaluation = views.of(report).evaluation if report else None
    if report is None or evaluation is None:
        return None
    after, before = (_table(store, side) for side in evaluation.sides)
    if after is None or before is None:
        return None
    old, new = _by_prompt(before), _by_prompt(after)
    scores = {id: s for step in evaluation.scores for id, s in _scores(store, step).items()}
    wins = _wins(store, evaluation.judgements, set(after.column("completion_id").to_pylist()))
    pairs = tuple(_pair(old[i], new[i], scores, wins) for i in new if i in old)
    return ComparedAnswers(report.content, pairs, choice_of(evaluation.oracle) if evaluation.oracle else "")


def _report_of(views: RecordViews, store: Store, record: Record) -> Record | None:
    """The record itself if it is an evaluation, else the newest one that has it among its answers or measured it."""
    if record.kind == "Report":
        return record
    if record.kind not in ANSWERS | {"Policy"}:
        return None
    entries = store.index.entries().values()
    for entry in sorted((e for e in entries if e.kind == "Report"), key=lambda e: e.made, reverse=True):
        report = store.record(entry.key)
        evaluation = views.of(report).evaluation if report else None
        if evaluation is None:
            continue
        shown = {origin(step).content for step in (evaluation.model, *evaluation.sides) if step}
        if record.content in shown - ({origin(evaluation.baseline).content} if evaluation.baseline else set()):
            return report
    return None


def _table(store: Store, step: StepView | None) -> Any:
    record = origin(step) if step else None
    if record is None or store.integrity_error(record):
        return None
    return store.open(record).table  # type: ignore[attr-defined]


def _by_prompt(table: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """Prompt id → completion id → row."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    columns = ["prompt_id", "prompt", "completion_id", "completion", "finish_reason"]
    for row in table.select(columns).to_pylist():
        rows.setdefault(row["prompt_id"], {})[row["completion_id"]] = row
    return rows


def _pair(
    old: Mapping[str, Mapping[str, Any]],
    new: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, float],
    wins: Mapping[tuple[str, str], float],
) -> AnswerPair:
    """The first two answers to one prompt that were compared, or the first of each side. Rows by completion id."""
    compared = ((a, b) for a in new for b in old if (a, b) in wins)
    mine, theirs = next(compared, (next(iter(new)), next(iter(old))))
    prompt = tuple(new[mine]["prompt"])
    return AnswerPair(prompt, _answer(old[theirs], scores), _answer(new[mine], scores), wins.get((mine, theirs)))


def _answer(row: Mapping[str, Any], scores: Mapping[str, float]) -> ShownAnswer:
    return ShownAnswer(row["completion"], scores.get(row["completion_id"]), row["finish_reason"] == "stop")


def _scores(store: Store, step: StepView) -> dict[str, float]:
    """Completion id → score, where the oracle gave one."""
    table = _table(store, step)
    if table is None:
        return {}
    pairs = zip(table.column("completion_id").to_pylist(), table.column("score").to_pylist(), strict=True)
    return {id: score for id, score in pairs if score is not None}


def _wins(store: Store, judgements: StepView | None, mine: set[str]) -> dict[tuple[str, str], float]:
    """(Completion of the policy, of the baseline) → P(the first beats the second), the mean over both orders where
    there are both. `mine`: ids of the policy's completions."""
    table = _table(store, judgements)
    if table is None:
        return {}
    ps: dict[tuple[str, str], list[float]] = {}
    for row in table.select(["a_id", "b_id", "p"]).to_pylist():
        if row["p"] is not None:
            mine_first = row["a_id"] in mine
            pair = (row["a_id"], row["b_id"]) if mine_first else (row["b_id"], row["a_id"])
            ps.setdefault(pair, []).append(row["p"] if mine_first else 1 - row["p"])
    return {pair: sum(several) / len(several) for pair, several in ps.items()}
