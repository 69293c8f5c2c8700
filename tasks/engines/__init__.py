"""Choices: what draws completions from a policy. Each returns a `tasks.sampling.requests.Engine`."""
