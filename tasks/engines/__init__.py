"""Choices: what draws completions from a policy. The choice returns a `tasks.sampling.requests.Engine` and takes:

- policy: a Hugging Face directory
"""
