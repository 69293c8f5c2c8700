"""Answers that were not sampled (`tasks/calls.py`): the choice returns texts to respond with, `list[str]`."""
