"""What a step does: tasks, and the choices they work with. Nothing here knows of keys, records, Prefect or MLflow."""
