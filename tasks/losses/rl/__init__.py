"""Objectives of reinforcement learning. `tasks/families.py` lists what they may name, and what fills it."""
