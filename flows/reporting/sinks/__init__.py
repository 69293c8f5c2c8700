"""Where results go: MLflow, Prefect."""
