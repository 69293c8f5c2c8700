"""Losses on the ranked answers to a prompt. `tasks/families.py` lists what they may name, and what fills it."""
