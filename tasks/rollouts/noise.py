"""Shuffles of a training's own: each purpose has a stream of its own under one seed."""

import numpy as np

from tasks.training.rows import Ints

PROMPTS, MINIBATCHES, DEMONSTRATIONS, OTHER_PROMPTS = 1, 2, 3, 4
"""Purposes. Without them two could be one stream: NumPy reads [seed, i] as [seed, i, 0]."""


def shuffled(n: int, seed: int, purpose: int, *place: int) -> Ints:
    """0 … n − 1 in an order that `seed`, `purpose` and `place` fix; a purpose's places are of one length."""
    return np.random.default_rng([seed, purpose, *place]).permutation(n)


def shuffled_piece(n: int, size: int, number: int, seed: int, purpose: int) -> list[tuple[int, int]]:
    """(pass, row) of `size` rows: piece `number` of passes over `n` rows, each in its own order."""
    places = range(number * size, (number + 1) * size)
    orders = {turn: shuffled(n, seed, purpose, turn) for turn in {p // n for p in places}}
    return [(p // n, int(orders[p // n][p % n])) for p in places]
