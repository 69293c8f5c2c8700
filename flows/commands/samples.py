"""Answers before and after on the console: those of the base policy and of the new policy, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from rich.console import Console
from rich.markup import escape

from flows.commands.options import Sort
from flows.commands.printing import say
from flows.reporting.answers import AnswerPair, ShownAnswer, compared_answers
from flows.reporting.results import new_table
from flows.store.records import Record
from flows.store.store import Store
from tasks.message import conversation_text

ORDERS = {
    Sort.FIRST: "the first of the table", Sort.BEST: "those where this policy does best",
    Sort.WORST: "those where this policy does worst", Sort.RANDOM: "at random (always the same)",
}  # fmt: skip


@dataclass(frozen=True)
class Samples:
    """Prompts of an evaluation with a pair of answers each."""

    report: str
    """Content digest of the evaluation that the pairs come from."""
    prompts: int
    pairs: tuple[AnswerPair, ...]
    sort: Sort
    oracle: str
    """The oracle that gave `p`; empty where it is unknown."""


def before_and_after(store: Store, record: Record, rows: int, sort: Sort = Sort.FIRST) -> Samples | None:
    """`rows` prompts of the evaluation that a record is, or that used or measured it; None if there is none."""
    answers = compared_answers(store, record)
    if answers is None:
        return None
    chosen = tuple(_sorted([*answers.pairs], sort, answers.report)[:rows])
    return Samples(answers.report, len(answers.pairs), chosen, sort, answers.oracle)


def _sorted(pairs: list[AnswerPair], sort: Sort, seed: str) -> list[AnswerPair]:
    """The pairs in that order; those without P come last. Random is the same order every time."""
    if sort is Sort.FIRST:
        return pairs
    if sort is Sort.RANDOM:
        return Random(seed).sample(pairs, len(pairs))
    sign = -1 if sort is Sort.BEST else 1
    return sorted(pairs, key=lambda pair: (pair.p is None, sign * (pair.p or 0.0)))


def print_samples(samples: Samples, console: Console) -> None:
    """Print the pairs as two columns."""
    title = f"Answers before and after: {len(samples.pairs)} of {samples.prompts} prompts, {ORDERS[samples.sort]}"
    table = new_table(show_lines=True, title=title)
    table.add_column("prompt", ratio=3, overflow="fold")
    table.add_column("base policy", ratio=4, overflow="fold")
    table.add_column("this policy", ratio=4, overflow="fold")
    table.add_column("P(this wins)", justify="right", no_wrap=True)
    for pair in samples.pairs:
        p = "–" if pair.p is None else f"[{'green' if pair.p > 0.5 else 'red'}]{pair.p:.2f}[/]"
        table.add_row(escape(conversation_text(pair.prompt)), _cell(pair.before), _cell(pair.after), p)
    console.print(table)
    by = f"by {samples.oracle}, " if samples.oracle else ""
    text = f"P(this wins): {by}of the two answers shown; the win rate is the mean over all pairs of answers and prompts"
    say(console, f"  {text}")


def _cell(answer: ShownAnswer) -> str:
    cut = "" if answer.finished else " [dim]… (cut)[/]"
    score = "" if answer.score is None else f"\n[dim]score {answer.score:.2f}[/]"
    return escape(answer.text) + cut + score
