"""Where prompts, answers, pairs and policies come from: one choice per file.

The choice takes no positional arguments and returns what its annotation names: Source, or World for what is made by
rule.
"""
