"""Answers before and after: the base policy's and the new policy's answers to the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from flows.store.records import Record
from flows.store.store import Store
from tasks.contract import JSON

if TYPE_CHECKING:
    from rich.console import Console

ANSWERS = frozenset({"Completions", "Scores", "WinRates"})


@dataclass(frozen=True)
class Answer:
    """One answer. `score` is the oracle's, None where it was not asked."""

    text: str
    score: float | None
    finished: bool


@dataclass(frozen=True)
class Pair:
    """The first answer of each side to one prompt. `p`: mean P(a new answer beats a base answer) to this prompt."""

    prompt: tuple[Mapping[str, str], ...]
    before: Answer
    after: Answer
    p: float | None


@dataclass(frozen=True)
class Answers:
    """The first prompts of an evaluation, in the table's order: not chosen by how well they went."""

    report: str
    """Content digest of the evaluation that the pairs come from."""
    prompts: int
    pairs: tuple[Pair, ...]

    def as_json(self) -> JSON:
        pairs: list[JSON] = [{**asdict(p), "prompt": [dict(m) for m in p.prompt]} for p in self.pairs]
        return {"report": self.report, "prompts": self.prompts, "pairs": pairs}


def before_and_after(store: Store, record: Record, rows: int) -> Answers | None:
    """`rows` prompts of the evaluation that a record is, was drawn for, or (a policy) was measured by; None if there is
    none."""
    report = _report_of(store, record)
    if report is None:
        return None
    after, before = _table(store, report, "completions"), _table(store, report, "others")
    if after is None or before is None:
        return None
    old, new = _first(before), _first(after)
    scores = {**_scores(store, report, "baseline_scores"), **_scores(store, report, "scores")}
    wins = _wins(store, report)
    ids = [i for i in new if i in old]
    pairs = (
        Pair(tuple(new[i]["prompt"]), _answer(old[i], scores), _answer(new[i], scores), wins.get(i)) for i in ids[:rows]
    )
    return Answers(report.content, len(ids), tuple(pairs))


def draw_answers(found: Answers, console: Console) -> None:
    """Print the pairs as two columns."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    title = f"Answers before and after: {len(found.pairs)} of {found.prompts} prompts, the first answer of each side"
    drawn = Table(box=box.SIMPLE_HEAD, show_lines=True, title=title, title_justify="left", title_style="bold")
    drawn.add_column("prompt", ratio=3, overflow="fold")
    drawn.add_column("base policy", ratio=4, overflow="fold")
    drawn.add_column("this policy", ratio=4, overflow="fold")
    drawn.add_column("P(this wins)", justify="right", no_wrap=True)
    for pair in found.pairs:
        prompt = "\n".join(
            m["content"] if len(pair.prompt) == 1 else f"{m['role']}: {m['content']}" for m in pair.prompt
        )
        p = "–" if pair.p is None else f"[{'green' if pair.p > 0.5 else 'red'}]{pair.p:.2f}[/]"
        drawn.add_row(escape(prompt), _said(pair.before), _said(pair.after), p)
    console.print(drawn)


def _said(answer: Answer) -> str:
    from rich.markup import escape

    cut = "" if answer.finished else " [dim]… (cut)[/]"
    score = "" if answer.score is None else f"\n[dim]score {answer.score:.2f}[/]"
    return escape(answer.text) + cut + score


def _report_of(store: Store, record: Record) -> Record | None:
    """The newest evaluation that shows the record: itself, of its completions, of the policy it is."""
    if record.kind == "Report":
        return record
    if record.kind not in ANSWERS | {"Policy"}:
        return None
    entries = store.index.entries()
    reports = sorted((e for e in entries.values() if e.kind == "Report"), key=lambda e: e.made, reverse=True)
    for report in reports:
        drawn = report.parents.get("completions", ())
        others = {p.content for p in report.parents.get("others", ())}
        policies = {p.content for d in drawn if d.key in entries for p in entries[d.key].parents.get("policy", ())}
        theirs = {
            p.content for d in report.parents.get("others", ()) if d.key in entries
            for p in entries[d.key].parents.get("policy", ())
        }  # fmt: skip
        shows = {d.content for d in drawn} | others | (policies - theirs)
        if record.content in shows:
            return store.record(report.key)
    return None


def _table(store: Store, report: Record, port: str) -> Any:
    for parent in report.parents.get(port, ()):
        made = store.record(parent.key)
        if made and not store.trouble(made):
            return store.open(made).table  # type: ignore[attr-defined]
    return None


def _first(table: Any) -> dict[str, dict[str, Any]]:
    """Prompt id → its first row."""
    rows: dict[str, dict[str, Any]] = {}
    columns = ["prompt_id", "prompt", "completion_id", "completion", "finish_reason"]
    for row in table.select(columns).to_pylist():
        rows.setdefault(row["prompt_id"], row)
    return rows


def _answer(row: Mapping[str, Any], scores: Mapping[str, float]) -> Answer:
    return Answer(row["completion"], scores.get(row["completion_id"]), row["finish_reason"] == "stop")


def _scores(store: Store, report: Record, port: str) -> dict[str, float]:
    """Completion id → score, where the oracle gave one."""
    table = _table(store, report, port)
    if table is None:
        return {}
    pairs = zip(table.column("completion_id").to_pylist(), table.column("score").to_pylist(), strict=True)
    return {id: score for id, score in pairs if score is not None}


def _wins(store: Store, report: Record) -> dict[str, float]:
    """Prompt id → mean P(an answer of the policy beats one of the baseline)."""
    table = _table(store, report, "win_probs")
    if table is None:
        return {}
    mine = set(_ids(_table(store, report, "completions")))
    found: dict[str, list[float]] = {}
    for row in table.select(["prompt_id", "a_id", "p"]).to_pylist():
        if row["p"] is not None:
            found.setdefault(row["prompt_id"], []).append(row["p"] if row["a_id"] in mine else 1 - row["p"])
    return {id: sum(several) / len(several) for id, several in found.items()}


def _ids(table: Any) -> Sequence[str]:
    return [] if table is None else table.column("completion_id").to_pylist()
