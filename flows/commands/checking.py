"""`alignflow check`: what is said of every pipeline and deployment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flows.wiring import Verdict
from tasks.contract import JSON


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
