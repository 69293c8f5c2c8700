"""`alignflow explain`: where two runs, or two results, part. Imports neither torch nor Prefect nor MLflow."""

from __future__ import annotations

import re

from flows.planning.divergence import Divergence, StoredResult, of_records, of_runs
from flows.planning.key_diff import KeyDifference
from flows.python.code_index import CodeIndex
from flows.python.codebase import TASKS
from flows.store.runs import Run, Runs
from flows.store.store import Store
from tasks.contract import JSON, SpecError

_MOST = 5
"""Reasons that are shown."""


def find_divergence(here: Store, left: str, there: Store, right: str) -> Divergence | None:
    """Compare what two names mean, each in its store: two runs, or two results. Raises SpecError."""
    one, other = _run_of(here, left), _run_of(there, right)
    if (one is None) != (other is None):
        raise SpecError(f"'{left}' and '{right}' are a run and a result: name two runs, or a step of each (RUN:STEP)")
    if one and other:
        return of_runs((here, one), (there, other))
    found = Runs(here).find(left), Runs(there).find(right)
    steps = [side.step.title if side.step else "" for side in found]
    results = StoredResult(here, found[0].record), StoredResult(there, found[1].record)
    return of_records(*results, (steps[0], steps[1]))


def _run_of(store: Store, ref: str) -> Run | None:
    is_run = ref == "last" or re.match(r"\d{8}-", ref)
    return Runs(store).find_run(ref) if is_run and ":" not in ref else None


def explanation(found: Divergence | None, code: CodeIndex) -> str:
    """A divergence in sentences."""
    if found is None:
        return "They are the same: every key and every content is equal."
    sides = (found.left, found.right)
    if None in sides:
        lacking = "the first" if found.left is None else "the second"
        return f"They part at `{found.step}`: {lacking} has no result of it."
    one, other = (side.record.content[:12] for side in sides if side)
    lines = [f"They are wired differently: {text}" for text in found.unlike]
    if found.unlike and not found.reasons and not found.content:
        return "\n".join(lines)
    alike = "Among the steps that both have in the same place, they" if lines else "They"
    lines.append(f"{alike} part at `{found.step}`: {one} and {other}")
    lines += [f"  because {_with_line(reason, code)}" for reason in found.reasons[:_MOST]]
    if len(found.reasons) > _MOST:
        lines.append(f"  and {len(found.reasons) - _MOST} more")
    if found.came_out_equal:
        then = f"the first that differ are those of `{found.later}`" if found.later else "so are all that follow"
        lines.append(f"  the contents are equal nevertheless; {then}")
    if not found.reasons:
        lines.append("  under one key: what makes the difference is in no key")
        lines += [f"  {text}" for text in found.circumstances]
    if found.content:
        lines.append(f"  {found.content}")
    return "\n".join(lines)


def _with_line(reason: KeyDifference, code: CodeIndex) -> str:
    """A reason; a unit of code with the line where it lies now."""
    file, _, unit = reason.name.partition("::")
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if reason.part != "code" or not unit or module not in code.codebase.files:
        return reason.text
    return f"{reason.text} ({code.place(module, unit)})"


def explain_text(here: Store, left: str, there: Store, right: str) -> str:
    """The first difference in sentences. Raises SpecError."""
    return explanation(find_divergence(here, left, there, right), here.code([TASKS]))


def explain_json(here: Store, left: str, there: Store, right: str) -> JSON:
    """The same facts for scripts; `step` is null where nothing differs. Raises SpecError."""
    found = find_divergence(here, left, there, right)
    return found.as_json() if found else {"step": None}
