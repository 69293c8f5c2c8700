"""From pipelines.yaml to a typed graph; imports neither Prefect nor torch nor MLflow nor Arrow."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.wiring.check_results import CheckResult, check_pipelines
    from flows.wiring.draw import draw_graph
    from flows.wiring.graph import CarriedValue, Tick, compile_pipeline
    from flows.wiring.params import sweep_values
    from flows.wiring.schema import json_schema
    from flows.wiring.text import load_file
    from flows.wiring.variants import SHIPPED

_MODULES = {
    "SHIPPED": "variants", "CarriedValue": "graph", "CheckResult": "check_results", "Tick": "graph",
    "check_pipelines": "check_results", "compile_pipeline": "graph", "draw_graph": "draw", "json_schema": "schema",
    "load_file": "text", "sweep_values": "params",
}  # fmt: skip
"""Each is imported when it is first asked for: `alignflow list` compiles nothing."""
__all__ = [
    "SHIPPED", "CarriedValue", "CheckResult", "Tick", "check_pipelines", "compile_pipeline", "draw_graph",
    "json_schema", "load_file", "sweep_values",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
