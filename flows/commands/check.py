"""`alignflow check`: results for every pipeline and deployment, and for the code that their steps run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from flows.commands.project import Project
from flows.python.code_index import CodeIndex
from flows.store.identities import check_outside
from flows.wiring.catalogue import Catalogue
from flows.wiring.check_results import CheckResult, check_pipelines
from flows.wiring.model import ChoiceValue
from flows.wiring.text import PipelineFile
from tasks.contract import JSON, Chosen, SpecError


def check_project(project: Project, name: str | None = None, *, deep: bool = False) -> list[CheckResult]:
    """The results for NAME, or for all that the file defines; `deep`: choices are called on made-up numbers, too."""
    names = [project.target(name)] if name else []
    results = check_pipelines(project.file, names, cache=project.store.python_cache)
    code = project.store.code(PipelineFile(project.file).packages)
    return [*(try_choices(results) if deep else results), *code_check_results(code)]


def try_choices(results: Sequence[CheckResult]) -> list[CheckResult]:
    """The results after each choice that they name has been called once on made-up numbers (imports torch)."""
    errors: dict[str, str] = {}

    def tried(result: CheckResult) -> CheckResult:
        for node in result.graph.nodes.values() if result.graph else ():
            for choice in (v for v in node.params.values() if isinstance(v, ChoiceValue)):
                key = f"{choice.folder}/{choice.name} {choice.params}"
                if key not in errors:
                    errors[key] = _error_of(choice)
                if errors[key]:
                    error = f"{node.where}: {result.pipeline}.{node.id}: {errors[key]}"
                    return replace(result, graph=None, error=error)
        return result

    return [tried(result) for result in results]


def _error_of(choice: ChoiceValue) -> str:
    from tasks.trial import try_choice

    try:
        try_choice(Chosen(choice.folder, choice.name, choice.params, execution=choice.execution))
    except SpecError as e:
        return str(e)
    return ""


def code_check_results(code: CodeIndex) -> list[CheckResult]:
    """A result for each file of tasks that no key can follow, or that may read what no key sees."""
    faults = code.faults()
    for file, fault in check_outside(code, Catalogue(code.codebase)) if not faults else ():
        faults.setdefault(file, fault)
    code.codebase.save()
    return [CheckResult(file, None, None, fault) for file, fault in faults.items()]


def check_results_json(results: Sequence[CheckResult]) -> JSON:
    """The results for scripts."""
    return [
        {
            "pipeline": r.pipeline, "deployment": r.deployment, "ok": not r.error, "error": r.error,
            "steps": len(r.graph.nodes) if r.graph else None, "notices": list(r.graph.notices) if r.graph else [],
        }
        for r in results
    ]  # fmt: skip


def check_results_text(results: Sequence[CheckResult]) -> Iterator[str]:
    """The results as lines."""
    for r in results:
        title = f"{r.pipeline}/{r.deployment}" if r.deployment else r.pipeline
        yield f"✗ {title}\n  {r.error}" if r.error or not r.graph else f"✓ {title}  {len(r.graph.nodes)} steps"
        yield from (f"  note: {notice}" for notice in (r.graph.notices if r.graph else ()))
