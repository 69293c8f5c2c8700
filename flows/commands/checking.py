"""`alignflow check`: what is said of every pipeline and deployment, and of the code that their steps run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.store.code import CodeIndex
from flows.store.identities import check_outside
from flows.wiring import Verdict
from flows.wiring.signatures import Catalogue
from tasks.contract import JSON


def code_verdicts(code: CodeIndex, kept: Path) -> list[Verdict]:
    """A verdict for each file of tasks that no key can follow, or that may read what no key sees."""
    faults = code.faults()
    for file, fault in check_outside(code, Catalogue(code.root / "tasks", kept)) if not faults else ():
        faults.setdefault(file, fault)
    code.save()
    return [Verdict(file, None, None, fault) for file, fault in faults.items()]


def verdicts_json(verdicts: Sequence[Verdict]) -> JSON:
    """The verdicts for scripts."""
    return [
        {
            "pipeline": v.pipeline, "deployment": v.deployment, "ok": not v.error, "error": v.error,
            "steps": len(v.graph.nodes) if v.graph else None, "notices": list(v.graph.notices) if v.graph else [],
        }
        for v in verdicts
    ]  # fmt: skip


def verdicts_text(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The verdicts as lines."""
    for v in verdicts:
        title = f"{v.pipeline}/{v.deployment}" if v.deployment else v.pipeline
        yield f"✗ {title}\n  {v.error}" if v.error or not v.graph else f"✓ {title}  {len(v.graph.nodes)} steps"
        yield from (f"  note: {notice}" for notice in (v.graph.notices if v.graph else ()))
