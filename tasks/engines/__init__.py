"""Engines that sample completions from a policy; each choice returns a `tasks.sampling.requests.Engine`."""
