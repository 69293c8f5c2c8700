"""What came out: the table of results, figures, MLflow."""
