"""Deviations: what else could have been answered. The choice returns texts to respond with, `list[str]`, and takes:

- text: one answer
"""
