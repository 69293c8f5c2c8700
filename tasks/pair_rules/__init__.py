"""Pair rules: which answered pairs are trained on, and which side of each is the chosen one.

A rule takes a polars frame with the columns of `tasks.calls.PAIR_COLUMNS`, one row for each answered pair of answers.
It returns a DataFrame of the pairs that it keeps, in order, with columns a (the chosen one), b (the rejected one), p
(P(chosen beats rejected)): `tasks.judging.oriented.oriented` does the turning. `pairs` fills in everything else.
"""
