"""Where prompts, answers, pairs and policies come from: one choice per file.

The choice takes no positional arguments and returns what its annotation names: Source, or World for what is made by
rule. A world's file also defines `world`, a `tasks.contract.WorldSpec`: its base policy, splits and oracles.

Each file declares what it reads of the outside world, because that is in the key of every step that takes it:
`identity(*, online, base, ...)` takes the parameters of the choice and returns names with texts (a hub's commit) or
paths, relative to `base`, which count by their content. `online`: the network may be used. `identity = None`: it
reads nothing outside.
"""

READS_OUTSIDE = True
