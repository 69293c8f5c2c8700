"""The Prefect side of a run: servers, flows, their clean-up."""
