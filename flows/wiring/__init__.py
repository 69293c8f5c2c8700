"""From pipelines.yaml to a typed graph; imports neither Prefect nor torch nor MLflow nor Arrow."""

from flows.wiring.grammar import load_file
from flows.wiring.graph import Carried, Tick, compile_pipeline
from flows.wiring.params import sweep_values

__all__ = ["Carried", "Tick", "compile_pipeline", "load_file", "sweep_values"]
