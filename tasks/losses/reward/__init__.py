"""Losses of reward models: on the scores of a pair's two answers (Preferences)."""
