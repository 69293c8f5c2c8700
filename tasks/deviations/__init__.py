"""Deviations: what else could have been answered. A rule takes one answer's text and gives texts to respond with."""
