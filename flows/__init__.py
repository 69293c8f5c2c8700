"""Orchestration: pipelines.yaml → typed graph → plan → Prefect flow, tracked in MLflow."""
