"""`alignflow rounds`: what became of every round of a continuing deployment, and the way back to an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from flows.reporting.results import estimate_text
from flows.rounds.history import AlphaUse, Finished, History, Measured, RolledBack, Round, alpha_use, changed_parameters
from flows.rounds.ledger import Ledger, ledgers, now
from flows.wiring.text import PipelineFile
from tasks.contract import JSON, SpecError
from tasks.declarations import Metric

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table as RichTable

    from flows.store.store import Store

Find = Callable[[], "Path"]
"""Finds the pipelines file; raises SpecError where there is none."""
STYLES = {"accepted": "", "rejected": "dim", "unfinished": "yellow", "given up": "dim"}


def found_ledgers(store: Store, name: str, find: Find | None = None) -> list[Ledger]:
    """The ledgers that NAME means: a deployment's, or those of all deployments of a pipeline.

    Raises SpecError where there are none; the pipelines file, if there is one, says then which could have some.
    """
    known = [*ledgers(store)]
    titles = _meant(name, [ledger.name for ledger in known])
    if not titles:
        raise SpecError(_no_rounds(name, [ledger.name for ledger in known], find))
    return [ledger for ledger in known if ledger.name in titles]


def _meant(name: str, titles: Iterable[str]) -> list[str]:
    return [title for title in titles if name in (title, title.partition("/")[0])]


def _no_rounds(name: str, known: Sequence[str], find: Find | None) -> str:
    """Why there are none, and what to say instead."""
    deployed: dict[str, bool] = {}
    with suppress(SpecError):
        deployed = dict(_deployed(find())) if find else {}
    could = [title for title, continues in deployed.items() if continues]
    if own := _meant(name, could):
        return f"'{name}' has made no rounds here yet; make one with: alignflow run {' or '.join(own)}"
    titles = list(dict.fromkeys([*known, *could]))
    if _meant(name, deployed):
        return f"'{name}' does not continue, so it has no rounds of its own; {_these(titles)}"
    near = get_close_matches(name, [*titles, *(title.partition("/")[0] for title in titles)], 1)
    return f"there are no rounds of '{name}'" + (f" (did you mean '{near[0]}'?)" if near else f"; {_these(titles)}")


def _these(titles: Sequence[str]) -> str:
    return f"deployments that continue: {', '.join(titles) or 'none'}"


def _deployed(file: Path) -> Iterator[tuple[str, bool]]:
    """Pipelines and deployments of a file, and whether they continue; those that cannot be read are left out."""
    source = PipelineFile(file)
    for name in source.names:
        yield name, False
        with suppress(SpecError):
            yield from ((f"{name}/{d.name}", d.continues) for d in source.pipeline(name).deployments.values())


def roll_back(store: Store, name: str, to: int, find: Find | None = None) -> str:
    """Let the head be again what it was after round `to`; 0 is the start. Nothing is deleted, and numbers go on.

    Returns what was done. Raises SpecError for a round that was not accepted, and while a tick is at work.
    """
    several = found_ledgers(store, name, find)
    if len(several) > 1:
        raise SpecError(f"'{name}' has several deployments: say which of {', '.join(one.name for one in several)}")
    [ledger] = several
    if ledger.is_locked():
        raise SpecError(f"a tick of {ledger.name} is at work: stop it, or wait for it")
    with ledger.lock():
        history = ledger.history()
        if to not in history.heads:
            allowed = ", ".join(map(str, sorted(history.heads)))
            raise SpecError(f"round {to} of {ledger.name} left no head; choose one of [{allowed}] (0: the start)")
        ledger.append(RolledBack(to, now()))
    given_up = f"round {history.last} is given up; " if history.open else ""
    where = f"what round {to} left" if to else "the start"
    return f"{ledger.name}: {given_up}the next tick is round {history.last + 1} and starts from {where}"


def rounds_text(store: Store, name: str, console: Console, find: Find | None = None) -> None:
    """Print the history of each deployment that NAME means."""
    for ledger in found_ledgers(store, name, find):
        history = ledger.history()
        console.print(_table(ledger, history, _headline(store, history)))
        for line in _state(ledger, history):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def rounds_json(store: Store, name: str, find: Find | None = None) -> JSON:
    """The same facts for scripts."""
    return [_as_json(ledger) for ledger in found_ledgers(store, name, find)]


def _as_json(ledger: Ledger) -> JSON:
    history = ledger.history()
    head = asdict(history.head)
    rounds: list[JSON] = [_round_json(before, this) for before, this in _with_former(history)]
    return {
        "deployment": ledger.name, "head": head, "last": history.last, "stalled": history.stalled,
        "unfinished": history.open.begun.number if history.open else None, "can_go_back_to": [*sorted(history.heads)],
        "at_work": ledger.is_locked(), "gate": asdict(used) if (used := alpha_use(history)) else None, "rounds": rounds,
    }  # fmt: skip


def _round_json(before: Round | None, this: Round) -> JSON:
    begun, finished = this.begun, this.finished
    return {
        "round": begun.number, "verdict": this.verdict, "begun": begun.when, "runs": list(this.runs),
        "finished": finished.when if finished else None, "parameters": dict(begun.parameters),
        "overrides": dict(begun.overrides), "changed": list(changed_parameters(before, this)), "commit": begun.commit,
        "gate": asdict(finished.gate) if finished and finished.gate else None,
        "evidence": asdict(finished.evidence) if finished and finished.evidence else None,
        "headline": {n: asdict(m) for n, m in finished.headline.items()} if finished else {},
        "carried": {n: asdict(c) if c else None for n, c in finished.values.items()} if finished else {},
    }  # fmt: skip


def _with_former(history: History) -> Iterator[tuple[Round | None, Round]]:
    return zip((None, *history.rounds), history.rounds, strict=False)


def _headline(store: Store, history: History) -> dict[str, Metric]:
    """The metrics of the headline that are shown: what runs are ranked by, and scores."""
    known = {name for r in history.rounds if r.finished for name in r.finished.headline}
    several = (metrics for _, metrics in store.declared.all_of("metrics"))
    return {n: m for metrics in several for n, m in metrics.items() if n in known and (m.ranks or m.role == "score")}


def _table(ledger: Ledger, history: History, headline: Mapping[str, Metric]) -> RichTable:
    from rich import box
    from rich.table import Table

    drawn = Table(
        title=ledger.name, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left", title_style="bold"
    )
    for name, justify in _columns(history, headline):
        drawn.add_column(name, justify=justify, overflow="fold")
    for before, this in _with_former(history):
        number = this.begun.number
        mark = " ← head" if number == history.head.round else ""
        drawn.add_row(*_cells(history, before, this, headline), f"{this.verdict}{mark}", style=STYLES[this.verdict])
    return drawn


def _columns(history: History, headline: Mapping[str, Metric]) -> list[tuple[str, Literal["left", "right"]]]:
    tests = ["p (limit)"] if any(r.finished.evidence for r in history.rounds if r.finished) else []
    heads = (m.column.replace("(95% CI)", "(95% CI; prompts)") for m in headline.values())
    numbers = ["round", "gate: against the head\n(95% CI; prompts)", *tests, *heads]
    shown = ["round", "begun", "run", "changed", *numbers[1:], "verdict"]
    return [(n, "right" if n in numbers else "left") for n in shown]


def _cells(history: History, before: Round | None, this: Round, headline: Mapping[str, Metric]) -> Sequence[str]:
    begun, finished = this.begun, this.finished
    changed = [f"{n}={begun.parameters.get(n)}" for n in changed_parameters(before, this)]
    measured = finished.headline if finished else {}
    numbers = [_said(finished.gate if finished else None)]
    numbers += [_test(finished)] if "p (limit)" in dict(_columns(history, headline)) else []
    numbers += [_said(measured.get(name), ends=metric.interval) for name, metric in headline.items()]
    return [str(begun.number), begun.when[:16].replace("T", " "), this.runs[-1], " ".join(changed), *numbers]


def _said(m: Measured | None, *, ends: bool = True) -> str:
    if m is None:
        return estimate_text(None, None, None)
    text = estimate_text(m.value, m.low if ends else None, m.high)
    return f"{text[:-1]}; {m.n})" if text.endswith(")") else text


def _test(finished: Finished | None) -> str:
    test = finished.evidence if finished else None
    return f"{test.p:.2g} ({test.level:.2g})" if test else estimate_text(None, None, None)


def _bound(used: AlphaUse) -> Iterator[str]:
    """What the gate promises, in words."""
    yield (
        f"the gate accepts round t where p ≤ {used.alpha:g} / (t·(t + 1)): however many rounds are made, the "
        "probability that it ever accepts a policy that is no better than its head on the gate's prompts is at most "
        f"{used.bound:.3g} ({used.used:.3g} of it used so far)"
    )
    if used.before:
        yield f"{used.before} accepted rounds of before have no such test: the bound does not hold for them"


def _state(ledger: Ledger, history: History) -> Iterator[str]:
    start = f"what round {history.head.round} left" if history.head.round else "the start"
    yield f"the next tick is round {history.open.begun.number if history.open else history.last + 1}, from {start}"
    if ledger.is_locked():
        yield "a tick is at work"
    elif history.open:
        back = f"alignflow rounds {ledger.name} --back-to {history.head.round}"
        yield f"round {history.open.begun.number} is unfinished: the next tick finishes it first; to give it up: {back}"
    if used := alpha_use(history):
        yield from _bound(used)
    if history.stalled:
        parameters = history.rounds[-1].begun.parameters
        yield f"{history.stall(parameters)}; ticks do nothing until a parameter changes or you say --force"
