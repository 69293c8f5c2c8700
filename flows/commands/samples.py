"""Answers before and after: the base policy's and the new policy's answers to the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from flows.commands.requests import Sort
from flows.reporting.comparability import choice_of
from flows.store.lineage import origin
from flows.store.records import Record
from flows.store.store import Store
from flows.store.views import RecordViews
from tasks.contract import JSON
from tasks.declarations import StepView
from tasks.message import conversation_text

if TYPE_CHECKING:
    from rich.console import Console

ANSWERS = frozenset({"Completions", "Scores", "WinRates"})
ORDERS = {
    Sort.FIRST: "the first of the table", Sort.BEST: "those where this policy does best",
    Sort.WORST: "those where this policy does worst", Sort.RANDOM: "drawn at random (always the same)",
}  # fmt: skip


@dataclass(frozen=True)
class ShownAnswer:
    """One answer. `score` is the oracle's, None where it gave none."""

    text: str
    score: float | None
    finished: bool


@dataclass(frozen=True)
class AnswerPair:
    """One answer of each side to a prompt, the first two that the oracle compared. `p`: P(the new one beats the
    base's), by the oracle that decided the evaluation; None where it compared none."""

    prompt: tuple[Mapping[str, str], ...]
    before: ShownAnswer
    after: ShownAnswer
    p: float | None


@dataclass(frozen=True)
class Samples:
    """Prompts of an evaluation with a pair of answers each."""

    report: str
    """Content digest of the evaluation that the pairs come from."""
    prompts: int
    pairs: tuple[AnswerPair, ...]
    sort: Sort
    oracle: str
    """Who gave `p`; empty where that is not known."""

    def as_json(self) -> JSON:
        pairs: list[JSON] = [{**asdict(p), "prompt": [dict(m) for m in p.prompt]} for p in self.pairs]
        return {
            "report": self.report, "prompts": self.prompts, "sort": self.sort.value, "oracle": self.oracle,
            "pairs": pairs,
        }  # fmt: skip


def before_and_after(store: Store, record: Record, rows: int, sort: Sort = Sort.FIRST) -> Samples | None:
    """`rows` prompts of the evaluation that a record is, was drawn for, or (a policy) was measured by; None if there is
    none."""
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
    wins = _wins(store, evaluation.judgements, set(_ids(after)))
    pairs = [_pair(old[i], new[i], scores, wins) for i in new if i in old]
    chosen = tuple(_sorted(pairs, sort, report.content)[:rows])
    oracle = choice_of(evaluation.oracle) if evaluation.oracle else ""
    return Samples(report.content, len(pairs), chosen, sort, oracle)


def _sorted(pairs: list[AnswerPair], sort: Sort, seed: str) -> list[AnswerPair]:
    """The pairs in that order; those without P come last. Random is the same order every time."""
    if sort is Sort.FIRST:
        return pairs
    if sort is Sort.RANDOM:
        return Random(seed).sample(pairs, len(pairs))
    sign = -1 if sort is Sort.BEST else 1
    return sorted(pairs, key=lambda pair: (pair.p is None, sign * (pair.p or 0.0)))


def pick_samples(found: Samples, console: Console) -> None:
    """Print the pairs as two columns."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    title = f"Answers before and after: {len(found.pairs)} of {found.prompts} prompts, {ORDERS[found.sort]}"
    drawn = Table(box=box.SIMPLE_HEAD, show_lines=True, title=title, title_justify="left", title_style="bold")
    drawn.add_column("prompt", ratio=3, overflow="fold")
    drawn.add_column("base policy", ratio=4, overflow="fold")
    drawn.add_column("this policy", ratio=4, overflow="fold")
    drawn.add_column("P(this wins)", justify="right", no_wrap=True)
    for pair in found.pairs:
        p = "–" if pair.p is None else f"[{'green' if pair.p > 0.5 else 'red'}]{pair.p:.2f}[/]"
        drawn.add_row(escape(conversation_text(pair.prompt)), _said(pair.before), _said(pair.after), p)
    console.print(drawn)
    by = f"by {found.oracle}, " if found.oracle else ""
    text = f"P(this wins): {by}of the two answers shown; the win rate is the mean over all pairs of answers and prompts"
    console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)


def _said(answer: ShownAnswer) -> str:
    from rich.markup import escape

    cut = "" if answer.finished else " [dim]… (cut)[/]"
    score = "" if answer.score is None else f"\n[dim]score {answer.score:.2f}[/]"
    return escape(answer.text) + cut + score


def _report_of(views: RecordViews, store: Store, record: Record) -> Record | None:
    """The newest evaluation that shows the record: itself, of its completions, of the policy it is."""
    if record.kind == "Report":
        return record
    if record.kind not in ANSWERS | {"Policy"}:
        return None
    entries = store.index.entries().values()
    for entry in sorted((e for e in entries if e.kind == "Report"), key=lambda e: e.made, reverse=True):
        report = store.record(entry.key)
        found = views.of(report).evaluation if report else None
        if found is None:
            continue
        shown = {origin(step).content for step in (found.model, *found.sides) if step}
        if record.content in shown - ({origin(found.baseline).content} if found.baseline else set()):
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
    found: dict[tuple[str, str], list[float]] = {}
    for row in table.select(["a_id", "b_id", "p"]).to_pylist():
        if row["p"] is not None:
            ours = row["a_id"] in mine
            pair = (row["a_id"], row["b_id"]) if ours else (row["b_id"], row["a_id"])
            found.setdefault(pair, []).append(row["p"] if ours else 1 - row["p"])
    return {pair: sum(several) / len(several) for pair, several in found.items()}


def _ids(table: Any) -> Sequence[str]:
    return [] if table is None else table.column("completion_id").to_pylist()
