"""Losses on pairs (Preferences)."""
