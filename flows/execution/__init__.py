"""A graph as a Prefect flow: one task run per step, hits shown as Cached."""
