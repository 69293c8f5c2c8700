"""What samples completions from a policy (`tasks/calls.py`): the choice returns a `tasks.sampling.requests.Engine`."""
