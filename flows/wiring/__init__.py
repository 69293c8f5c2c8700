"""From pipelines.yaml to a typed graph; imports neither Prefect nor torch nor MLflow nor Arrow."""
