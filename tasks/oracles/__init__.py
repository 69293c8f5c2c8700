"""Who decides which of two answers is better: one choice per file.

The choice takes no positional arguments and returns what its annotation names: Oracle, Scorer, PreferenceModel or
RewardModel.
"""
