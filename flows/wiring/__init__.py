"""From pipelines.yaml to a typed graph; imports neither Prefect nor torch nor MLflow nor Arrow."""

from flows.wiring.draw import draw
from flows.wiring.graph import Carried, Tick, compile_pipeline
from flows.wiring.params import sweep_values
from flows.wiring.schema import json_schema
from flows.wiring.text import load_file
from flows.wiring.verdicts import Verdict, check_pipelines

__all__ = [
    "Carried", "Tick", "Verdict", "check_pipelines", "compile_pipeline", "draw", "json_schema", "load_file",
    "sweep_values",
]  # fmt: skip
