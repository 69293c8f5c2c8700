"""Oracles, which decide which of two answers is better: one choice per file.

The choice takes no positional arguments and returns what its annotation names: Oracle, Scorer, PreferenceModel or
RewardModel.

Each file declares what it reads of the outside world, because that is in the key of every step that takes it:
`identity(*, online, base, ...)` takes the parameters of the choice and returns names with texts (a model's name, a
version) or paths, relative to `base`, which count by their content. `identity = None`: it reads nothing outside.
"""

READS_OUTSIDE = True
