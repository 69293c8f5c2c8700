"""One run of a compiled graph: its steps, where they execute, and what Prefect shows of it."""
