"""`alignflow rounds`: the verdict of every round of a continuing deployment, and the way back to an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from flows.commands.printing import say
from flows.reporting.results import NOTHING, estimate_text, new_table
from flows.rounds.champion import sync_champion
from flows.rounds.history import History, Measured, RolledBack, Round, alpha_use, changed_parameters
from flows.rounds.ledger import Ledger, ledgers
from flows.store.store import Store
from flows.wiring.text import PipelineFile
from tasks.contract import JSON, SpecError
from tasks.declarations import Metric

Find = Callable[[], Path]
"""Finds the pipelines file; raises SpecError where there is none."""
STYLES = {"accepted": "", "rejected": "dim", "unfinished": "yellow", "given up": "dim"}


def ledgers_of(store: Store, name: str, find: Find | None = None) -> list[Ledger]:
    """The ledger of a deployment, or those of all deployments of a pipeline.

    Raises SpecError where there are none; it names the deployments of the pipelines file, if `find` finds one.
    """
    every = [*ledgers(store)]
    matching = _matching(name, [ledger.name for ledger in every])
    if not matching:
        raise SpecError(_no_rounds(name, [ledger.name for ledger in every], find))
    return [ledger for ledger in every if ledger.name in matching]


def _matching(name: str, titles: Iterable[str]) -> list[str]:
    return [title for title in titles if name in (title, title.partition("/")[0])]


def _no_rounds(name: str, known: Sequence[str], find: Find | None) -> str:
    """Why there are none, and which names have some."""
    deployed: dict[str, bool] = {}
    with suppress(SpecError):
        deployed = dict(_deployed(find())) if find else {}
    continuing = [title for title, continues in deployed.items() if continues]
    if own := _matching(name, continuing):
        return f"'{name}' has made no rounds here yet; make one with: alignflow run {' or '.join(own)}"
    titles = list(dict.fromkeys([*known, *continuing]))
    these = f"deployments that continue: {', '.join(titles) or 'none'}"
    if _matching(name, deployed):
        return f"'{name}' does not continue, so it has no rounds of its own; {these}"
    near = get_close_matches(name, [*titles, *(title.partition("/")[0] for title in titles)], 1)
    return f"there are no rounds of '{name}'" + (f" (did you mean '{near[0]}'?)" if near else f"; {these}")


def _deployed(file: Path) -> Iterator[tuple[str, bool]]:
    """Pipelines and deployments of a file, and whether they continue; those that cannot be read are left out."""
    source = PipelineFile(file)
    for name in source.names:
        yield name, False
        with suppress(SpecError):
            yield from ((f"{name}/{d.name}", d.continues) for d in source.pipeline(name).deployments.values())


def roll_back(store: Store, name: str, to: int, find: Find | None = None) -> str:
    """Make the head what it was after round `to`; 0 is the start. Nothing is deleted, and numbers go on.

    Returns a sentence about the next tick. Raises SpecError for a round that was not accepted, and while a tick is at
    work.
    """
    several = ledgers_of(store, name, find)
    if len(several) > 1:
        raise SpecError(f"'{name}' has several deployments: choose one of {', '.join(one.name for one in several)}")
    [ledger] = several
    if ledger.is_locked():
        raise SpecError(f"a tick of {ledger.name} is at work: stop it, or wait for it")
    with ledger.lock():
        history = ledger.history()
        if to not in history.heads:
            allowed = ", ".join(map(str, sorted(history.heads)))
            raise SpecError(f"round {to} of {ledger.name} left no head; choose one of [{allowed}] (0: the start)")
        ledger.append(RolledBack(to))
        trouble = sync_champion(store, ledger)
    given_up = f"round {history.last} is given up; " if history.open else ""
    start = f"what round {to} left" if to else "the start"
    return f"{ledger.name}: {given_up}the next tick is round {history.last + 1} and starts from {start}{trouble}"


def rounds_text(store: Store, name: str, console: Console, find: Find | None = None) -> None:
    """Print the history of each deployment that NAME names."""
    for ledger in ledgers_of(store, name, find):
        history = ledger.history()
        console.print(_table(ledger, history, _headline(store, history)))
        for line in _state(ledger, history):
            say(console, f"  {line}")


def rounds_json(store: Store, name: str, find: Find | None = None) -> JSON:
    """The same facts for scripts."""
    return [_as_json(ledger) for ledger in ledgers_of(store, name, find)]


def _as_json(ledger: Ledger) -> JSON:
    history = ledger.history()
    used = alpha_use(history)
    return {
        "deployment": ledger.name, "head": asdict(history.head), "last": history.last, "stalled": history.stalled,
        "unfinished": history.open.begun.number if history.open else None, "can_go_back_to": [*sorted(history.heads)],
        "at_work": ledger.is_locked(), "gate": asdict(used) if used else None,
        "rounds": [_round_json(before, this) for before, this in _with_former(history)],
    }  # fmt: skip


def _round_json(before: Round | None, this: Round) -> JSON:
    begun, finished = this.begun, asdict(this.finished) if this.finished else {}
    return {
        "round": begun.number, "verdict": this.verdict, "begun": begun.when, "runs": list(this.runs),
        "finished": finished.get("when"), "parameters": dict(begun.parameters), "overrides": dict(begun.overrides),
        "changed": list(changed_parameters(before, this)), "commit": begun.commit, "gate": finished.get("gate"),
        "evidence": finished.get("evidence"), "headline": finished.get("headline", {}),
        "carried": finished.get("values", {}),
    }  # fmt: skip


def _with_former(history: History) -> Iterator[tuple[Round | None, Round]]:
    return zip((None, *history.rounds), history.rounds, strict=False)


def _headline(store: Store, history: History) -> dict[str, Metric]:
    """The metrics of the headline that are shown: what runs are ranked by, and scores."""
    measured = {name for r in history.rounds if r.finished for name in r.finished.headline}
    declared = [pair for _, metrics in store.declared.all_of("metrics") for pair in metrics.items()]
    return {name: m for name, m in declared if name in measured and (m.ranks or m.role == "score")}


def _table(ledger: Ledger, history: History, headline: Mapping[str, Metric]) -> RichTable:
    is_tested = any(r.finished.evidence for r in history.rounds if r.finished)
    tests = ["p (limit)"] if is_tested else []
    heads = [m.column.replace("(95% CI)", "(95% CI; prompts)") for m in headline.values()]
    numbers = ["gate: against the head\n(95% CI; prompts)", *tests, *heads]
    table = new_table(title=ledger.name)
    for name in ("round", "begun", "run", "changed", *numbers, "verdict"):
        table.add_column(name, justify="right" if name in ("round", *numbers) else "left", overflow="fold")
    for before, this in _with_former(history):
        begun, finished = this.begun, this.finished
        changed = " ".join(f"{n}={begun.parameters.get(n)}" for n in changed_parameters(before, this))
        cells = [_measured(finished.gate if finished else None)]
        if is_tested:
            test = finished.evidence if finished else None
            cells.append(f"{test.p:.2g} ({test.level:.2g})" if test else NOTHING)
        measured = finished.headline if finished else {}
        cells += [_measured(measured.get(name), ends=metric.interval) for name, metric in headline.items()]
        verdict = f"{this.verdict}{' ← head' if begun.number == history.head.round else ''}"
        row = (str(begun.number), begun.when[:16].replace("T", " "), this.runs[-1], changed, *cells, verdict)
        table.add_row(*row, style=STYLES[this.verdict])
    return table


def _measured(m: Measured | None, *, ends: bool = True) -> str:
    return estimate_text(m.value, m.low if ends else None, m.high, about=str(m.n)) if m else NOTHING


def _state(ledger: Ledger, history: History) -> Iterator[str]:
    start = f"what round {history.head.round} left" if history.head.round else "the start"
    yield f"the next tick is round {history.open.begun.number if history.open else history.last + 1}, from {start}"
    if ledger.is_locked():
        yield "a tick is at work"
    elif history.open:
        back = f"alignflow rounds {ledger.name} --back-to {history.head.round}"
        yield f"round {history.open.begun.number} is unfinished: the next tick finishes it first; to give it up: {back}"
    if used := alpha_use(history):
        yield (
            f"the gate accepts round t where p ≤ {used.alpha:g} / (t·(t + 1)): however many rounds are made, the "
            "probability that it ever accepts a policy that is no better than its head on the gate's prompts is at "
            f"most {used.bound:.3g} ({used.used:.3g} of it used so far)"
        )
    if history.stalled:
        parameters = history.rounds[-1].begun.parameters
        yield f"{history.stall(parameters)}; ticks do nothing until a parameter changes or you add --force"
