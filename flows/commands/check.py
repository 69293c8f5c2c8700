"""`alignflow check`: results for every pipeline and deployment, and for the code that their steps run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from flows.python.code_index import CodeIndex
from flows.store.identities import check_outside
from flows.wiring.catalogue import Catalogue
from flows.wiring.check_results import CheckResult
from flows.wiring.model import ChoiceValue
from tasks.contract import JSON, Chosen, SpecError


def try_choices(verdicts: Sequence[CheckResult]) -> list[CheckResult]:
    """The verdicts after the choices that they name have been called on made-up numbers, each once (imports torch)."""
    errors: dict[str, str] = {}

    def judged(verdict: CheckResult) -> CheckResult:
        for node in verdict.graph.nodes.values() if verdict.graph else ():
            for choice in (v for v in node.params.values() if isinstance(v, ChoiceValue)):
                key = f"{choice.folder}/{choice.name} {choice.params}"
                if key not in errors:
                    errors[key] = _error_of(choice)
                if errors[key]:
                    error = f"{node.where}: {verdict.pipeline}.{node.id}: {errors[key]}"
                    return replace(verdict, graph=None, error=error)
        return verdict

    return [judged(v) for v in verdicts]


def _error_of(choice: ChoiceValue) -> str:
    from tasks.trial import try_choice

    try:
        try_choice(Chosen(choice.folder, choice.name, choice.params, execution=choice.execution))
    except SpecError as e:
        return str(e)
    return ""


def code_check_results(code: CodeIndex) -> list[CheckResult]:
    """A verdict for each file of tasks that no key can follow, or that may read what no key sees."""
    faults = code.faults()
    for file, fault in check_outside(code, Catalogue(code.codebase)) if not faults else ():
        faults.setdefault(file, fault)
    code.codebase.save()
    return [CheckResult(file, None, None, fault) for file, fault in faults.items()]


def check_results_json(verdicts: Sequence[CheckResult]) -> JSON:
    """The verdicts for scripts."""
    return [
        {
            "pipeline": v.pipeline, "deployment": v.deployment, "ok": not v.error, "error": v.error,
            "steps": len(v.graph.nodes) if v.graph else None, "notices": list(v.graph.notices) if v.graph else [],
        }
        for v in verdicts
    ]  # fmt: skip


def check_results_text(verdicts: Sequence[CheckResult]) -> Iterator[str]:
    """The verdicts as lines."""
    for v in verdicts:
        title = f"{v.pipeline}/{v.deployment}" if v.deployment else v.pipeline
        yield f"✗ {title}\n  {v.error}" if v.error or not v.graph else f"✓ {title}  {len(v.graph.nodes)} steps"
        yield from (f"  note: {notice}" for notice in (v.graph.notices if v.graph else ()))
