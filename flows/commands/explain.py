"""`alignflow explain`: where two runs, or two results, part. Imports neither torch nor Prefect nor MLflow."""

from __future__ import annotations

from flows.commands.project import run_of
from flows.planning.divergence import Divergence, StoredResult, of_records, of_runs
from flows.planning.key_diff import KeyDifference
from flows.python.code_index import CodeIndex
from flows.python.codebase import TASKS
from flows.store.runs import Runs
from flows.store.store import Store
from tasks.contract import JSON, SpecError

_MOST = 5
"""Reasons that are shown."""


def find_divergence(here: Store, left: str, there: Store, right: str) -> Divergence | None:
    """Compare the two runs, or the two results, that two references name, each in its store. Raises SpecError."""
    one, other = run_of(here, left), run_of(there, right)
    if (one is None) != (other is None):
        raise SpecError(f"'{left}' and '{right}' are a run and a result: name two runs, or a step of each (RUN:STEP)")
    if one and other:
        return of_runs((here, one), (there, other))
    first, second = Runs(here).find(left), Runs(there).find(right)
    steps = (first.step.title if first.step else "", second.step.title if second.step else "")
    return of_records(StoredResult(here, first.record), StoredResult(there, second.record), steps)


def explanation(divergence: Divergence | None, code: CodeIndex) -> str:
    """A divergence in sentences."""
    if divergence is None:
        return "They are the same: every key and every content is equal."
    step, left, right, reasons = divergence.step, divergence.left, divergence.right, divergence.reasons
    if left is None or right is None:
        return f"They part at `{step}`: {'the first' if left is None else 'the second'} has no result of it."
    lines = [f"They are wired differently: {text}" for text in divergence.unlike]
    if lines and not reasons and not divergence.content:
        return "\n".join(lines)
    both = "Among the steps that both have in the same place, they" if lines else "They"
    lines.append(f"{both} part at `{step}`: {left.record.content[:12]} and {right.record.content[:12]}")
    lines += [f"  because {_with_line(reason, code)}" for reason in reasons[:_MOST]]
    if len(reasons) > _MOST:
        lines.append(f"  and {len(reasons) - _MOST} more")
    if divergence.came_out_equal:
        later = divergence.later
        then = f"the first that differ are those of `{later}`" if later else "so are those of all later steps"
        lines.append(f"  the contents are equal nevertheless; {then}")
    if not reasons:
        lines.append("  under one key: the difference comes from something that the key does not contain")
        lines += [f"  {text}" for text in divergence.circumstances]
    if divergence.content:
        lines.append(f"  {divergence.content}")
    return "\n".join(lines)


def _with_line(reason: KeyDifference, code: CodeIndex) -> str:
    """A reason; for a unit of code with its present file and line."""
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
    divergence = find_divergence(here, left, there, right)
    return divergence.as_json() if divergence else {"step": None}
