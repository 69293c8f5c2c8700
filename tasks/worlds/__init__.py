"""Worlds made by rule, in which everything can be checked."""
