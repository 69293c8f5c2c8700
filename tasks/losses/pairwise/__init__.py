"""Losses on pairs of answers. `tasks/families.py` lists what they may name, and what fills it."""
