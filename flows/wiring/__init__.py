"""From pipelines.yaml to a typed graph; imports neither Prefect nor torch nor MLflow nor Arrow."""

from flows.wiring.check_results import CheckResult, check_pipelines
from flows.wiring.draw import draw_graph
from flows.wiring.graph import CarriedValue, Tick, compile_pipeline
from flows.wiring.params import sweep_values
from flows.wiring.schema import json_schema
from flows.wiring.text import load_file
from flows.wiring.variants import SHIPPED

__all__ = [
    "SHIPPED", "CarriedValue", "CheckResult", "Tick", "check_pipelines", "compile_pipeline", "draw_graph",
    "json_schema", "load_file", "sweep_values",
]  # fmt: skip
