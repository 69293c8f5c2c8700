"""Cards of what is pushed to a hub: README.md with its metadata, made from records and nothing else.

The license is left to the user: alignflow does not know under which one the data and the base model may be passed on.
Of files and folders of this machine only the last part of the path is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flows.reporting.comparability import measurement_facts
from flows.reporting.comparison import short_value
from flows.reporting.results import NOTHING, Estimate, estimate_text, read_report, run_results
from flows.store.finished import HEADLINE, FinishedStep
from flows.store.index import IndexEntry
from flows.store.lineage import origin, training_tables
from flows.store.records import Record
from flows.store.runs import FoundRecord
from flows.store.store import Store
from flows.store.views import RecordViews
from flows.wiring.views import MODELS

TAG = "alignflow"
LICENSE = (
    "None was chosen. Add `license:` to the metadata above; the licenses of the base model and of the data listed here "
    "hold besides."
)
REPORTS = 3
"""Evaluations of a model that its card shows, one of each kind."""


class CardSource(NamedTuple):
    """Where something from outside came from."""

    text: str
    hub: str = ""
    """The hub's name of it; empty for a world or a local file."""


class Measurement(NamedTuple):
    """An evaluation of the model: its numbers, what they were measured with, and what must be read beside them."""

    title: str
    metrics: Mapping[str, Estimate]
    facts: Mapping[str, str]
    warnings: Sequence[str]


def source_of(record: Record) -> CardSource | None:
    """The source that a record was read from; None for what was made here."""
    params, identities = record.parts.get("params"), record.parts.get("identities")
    for name, value in params.items() if isinstance(params, dict) and not record.parents else ():
        if not isinstance(value, dict) or "choice" not in value:
            continue
        own: Any = value.get("params") or {}
        known: Any = (identities if isinstance(identities, dict) else {}).get(name, {})
        path = own.get("path")
        if not isinstance(path, str):
            return CardSource(f"`{short_value(value)}`")
        if "content" in known:
            return CardSource(f"`{Path(path).name}`")
        commit = next((str(c)[:12] for c in known.values()), "")
        return CardSource(f"`{path}`{f' at `{commit}`' if commit else ''}", path)
    return None


def first_model(store: Store, record: Record) -> Record:
    """The model that a chain of trainings began with: the record itself where no model went in."""
    while models := [made for p in record.inputs if (made := store.record(p.key)) and made.kind in MODELS]:
        record = models[0]
    return record


def base_name(store: Store, record: Record) -> str:
    """The hub's name of the base of an adapter, or of the model that a whole model was trained from; else empty."""
    referred = (made for content in record.refers_to for made in store.index.records(content))
    source = source_of(next(referred, None) or first_model(store, record))
    return source.hub if source else ""


def measurements(store: Store, found: FoundRecord) -> list[Measurement]:
    """The evaluations of a model, those of its run first, then the newest, one of each kind."""
    own = {step.key for step in found.run.steps.values()} if found.run else set()
    several = (e for e in store.index.entries().values() if e.kind == "Report")
    by_kind: dict[str, Measurement] = {}
    views = RecordViews(store)
    for entry in sorted(several, key=lambda e: (e.key in own, e.made), reverse=True):
        report = store.record(entry.key)
        evaluation = views.of(report).evaluation if report else None
        if not report or not evaluation or not evaluation.model or len(by_kind) == REPORTS:
            continue
        if origin(evaluation.model).content == found.record.content and evaluation.title not in by_kind:
            results = run_results(store, [FinishedStep((HEADLINE,), None, report, True)])
            facts = measurement_facts(store, report)
            by_kind[evaluation.title] = Measurement(
                evaluation.title, read_report(store, report), facts, results.warnings()
            )
    return list(by_kind.values())


def model_card(store: Store, found: FoundRecord, repo: str, base: str) -> str:
    """The card of a policy or another model. `base`: the hub's name of its base; empty where it has none there."""
    from huggingface_hub import EvalResult, ModelCardData

    record, adapter = found.record, bool(found.record.refers_to)
    training = RecordViews(store).of(record).training
    tables = training_tables(store, record.content)
    measured = measurements(store, found)
    results = [
        EvalResult(
            task_type="text-generation", dataset_type=TAG, dataset_name=m.facts.get("prompts", m.title),
            metric_type=name, metric_name=_head(name, e), metric_value=e.value,
        )
        for m in measured for name, e in _shown(m.metrics)
    ]  # fmt: skip
    data = ModelCardData(
        base_model=base or None, base_model_relation=("adapter" if adapter else "finetune") if base else None,
        datasets=sorted({s.hub for t in tables for s in _sources(store, t) if s.hub}) or None,
        library_name="peft" if adapter else "transformers", model_name=repo.rpartition("/")[2],
        pipeline_tag="text-generation" if record.kind == "Policy" else None,
        tags=[TAG, *([training.algorithm] if training else [])], eval_results=results or None,
    )  # fmt: skip
    whole = "A causal language model" if record.kind == "Policy" else f"A {record.kind}"
    what = f"A LoRA adapter of `{base}`" if adapter else whole
    parts = [
        [f"# {repo.rpartition('/')[2]}", "", f"{what}, {_made(found)}"],
        *([["## Method", "", *_method(store, record)]] if record.parents or training else []),
        *([_results(m) for m in measured] or [["## Results", "", "Nothing was measured on it."]]),
        ["## Data", "", *_data(store, tables)],
        ["## Use", "", *_use(repo, adapter, record)],
        ["## License", "", LICENSE],
    ]
    return _card(data.to_yaml(), parts)


def dataset_card(store: Store, found: FoundRecord, repo: str) -> str:
    """The card of a table."""
    from huggingface_hub import DatasetCardData

    from tasks.kinds import KINDS

    record = found.record
    schema: Any = getattr(KINDS[record.kind], "SCHEMA", ())
    data = DatasetCardData(tags=[TAG, record.kind.lower()], pretty_name=repo.rpartition("/")[2])
    columns = [
        {"column": f"`{f.name}`", "type": f"`{f.type}`" if len(str(f.type)) < 40 else "nested",
         "meaning": (f.metadata or {}).get(b"about", b"").decode()}
        for f in schema
    ]  # fmt: skip
    behind = [store.record(p.key) for p in record.inputs]
    parts = [
        [f"# {repo.rpartition('/')[2]}", "", f"{record.rows or 0:,} rows of {record.kind}, {_made(found)}"],
        ["## Columns", "", *_table(columns)],
        ["## How it was made", "", *_parameters(record), "", *_table([_step(store, r) for r in behind if r])],
        *([["## Notes", "", *(f"- {_plain(notice)}" for notice in record.notices)]] if record.notices else []),
        ["## License", "", LICENSE],
    ]
    return _card(data.to_yaml(), parts)


def _card(metadata: str, parts: Iterable[Sequence[str]]) -> str:
    return "\n".join(["---", metadata.strip(), "---", "", *("\n".join([*part, ""]) for part in parts)])


def _made(found: FoundRecord) -> str:
    record = found.record
    how = f"by the step `{found.step.title}` of `{found.run.title}`" if found.run and found.step else "by a step"
    when = f"{record.made[:10]}, commit `{record.commit[:12]}`" if record.commit else record.made[:10]
    return f"made {how} (task `{record.task}`) on {when}. Content digest: `{record.content}`."


def _method(store: Store, record: Record) -> Iterator[str]:
    view = RecordViews(store).of(record)
    if view.training:
        yield f"Trained by `{view.training.algorithm}`."
        yield ""
    first = first_model(store, record)
    if first is not record:
        source = source_of(first)
        begun = source.text if source else f"a model made here by `{first.task}`"
        yield f"The chain of trainings began with {begun} (digest `{first.content[:12]}`)."
        yield ""
    yield from _parameters(record)
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    yield from ["", f"Packages: {versions}."] if versions else []


def _parameters(record: Record) -> Iterator[str]:
    params = record.parts.get("params")
    rows = {n: v for n, v in params.items() if v is not None} if isinstance(params, dict) else {}
    yield from _table([{"parameter": f"`{n}`", "value": f"`{_local(v)}`"} for n, v in rows.items()])


def _local(value: Any) -> str:
    """A parameter in few letters; of a local path only its last part."""
    if isinstance(value, dict) and isinstance((value.get("params") or {}).get("path"), str):
        value = {**value, "params": {**value["params"], "path": Path(value["params"]["path"]).name}}
    return short_value(value)


def _results(m: Measurement) -> list[str]:
    facts = "; ".join(f"{name}: {_plain(value)}" for name, value in m.facts.items() if name != "evaluation")
    rows = [
        {"metric": _head(name, e), "value": estimate_text(e.value, None, None, e.metric.format),
         "95% interval": _interval(e), "n": f"{e.n:,}", "unit": e.unit}
        for name, e in _shown(m.metrics)
    ]  # fmt: skip
    warnings = [f"> **Warning.** {_plain(text)}" for text in m.warnings]
    return [f"## Results: {m.title}", "", *_table(rows), "", f"Measured with {facts}.", *(["", *warnings])]


def _interval(e: Estimate) -> str:
    if e.low is None or e.high is None:
        return NOTHING
    return f"{e.low:{e.metric.format}} to {e.high:{e.metric.format}}"


def _shown(metrics: Mapping[str, Estimate]) -> list[tuple[str, Estimate]]:
    return [(name, e) for name, e in metrics.items() if e.metric.column and e.value == e.value]


def _head(name: str, e: Estimate) -> str:
    return " ".join(e.metric.column.replace("(95% CI)", "").split()) or name


def _data(store: Store, tables: Sequence[IndexEntry]) -> Iterator[str]:
    """The tables that trained a model or what judged its data, and the sources behind them."""
    records = [made for entry in tables if (made := store.record(entry.key))]
    if not records:
        yield "No table of this store trained it."
        return
    yield from _table([_step(store, record) for record in records])


def _step(store: Store, record: Record) -> dict[str, str]:
    sources = ", ".join(dict.fromkeys(s.text for s in _sources(store, record)))
    rows = NOTHING if record.rows is None else f"{record.rows:,}"
    models = [m for p in record.inputs if (m := store.record(p.key)) and m.kind in MODELS]
    return {
        "made by": f"`{record.task}`", "kind": record.kind, "rows": rows, "digest": f"`{record.content[:12]}`",
        "of models": ", ".join(f"{m.kind} `{m.content[:12]}`" for m in models) or NOTHING,
        "sources": sources or NOTHING,
    }  # fmt: skip


def _sources(store: Store, entry: IndexEntry | Record) -> Iterator[CardSource]:
    """What was read from outside behind a result, but for models and what judged."""
    todo, done = [entry.key], set[str]()
    while todo:
        key = todo.pop(0)
        record = store.record(key) if key not in done else None
        done.add(key)
        if record is None or record.kind in MODELS:
            continue
        if source := source_of(record):
            yield source
        todo += [parent.key for parent in record.inputs]


def _use(repo: str, adapter: bool, record: Record) -> list[str]:
    module, name = ("peft", "AutoPeftModelForCausalLM") if adapter else ("transformers", "AutoModelForCausalLM")
    if record.kind != "Policy":
        return ["It is a model of alignflow's layout; `alignflow` loads it as a source."]
    return [
        "```python", f"from {module} import {name}", "from transformers import AutoTokenizer", "",
        f"model = {name}.from_pretrained({json.dumps(repo)})",
        f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(repo)})", "```",
    ]  # fmt: skip


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    if rows:
        yield f"| {' | '.join(rows[0])} |"
        yield f"|{'---|' * len(rows[0])}"
        yield from (f"| {' | '.join(map(_plain, row.values()))} |" for row in rows)


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
