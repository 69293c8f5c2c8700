"""Worlds made by rule, in which everything can be checked."""

SPLITS = {"rm": 400, "policy": 640, "gate": 128, "heldout": 128}
"""Prompts of each split of the toy world: disjoint, together all 1,296. `sft` stands for rm and policy together."""
