"""What a run measured: results, comparisons, figures, MLflow and Prefect pages."""
