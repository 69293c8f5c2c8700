"""Losses of reward models. `tasks/families.py` lists what they may name, and what fills it."""
