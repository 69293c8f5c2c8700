"""Pair rules: which answered pairs are trained on, and which side of each is the chosen one. The choice takes:

- pairs: a polars frame

One row of it = one answered pair of answers to a prompt, columns:

- prompt: number of the prompt, ascending
- answers: how many answers it has
- a, b: rows of the two answers, a < b
- a_id, b_id: their completion_id
- a_win_rate, b_win_rate: mean P over the answered opponents of the prompt, the answer itself not counted
- a_place, b_place: place among the answers of the prompt, 0 = highest win rate, of equal ones the lower k first
- p: P(a beats b), the mean over both orders where both were asked

It returns a DataFrame of the pairs that it keeps, in order, with columns a (the chosen one), b (the rejected one), p
(P(chosen beats rejected)): `tasks.judging.oriented.oriented` does the turning. `pairs` fills in everything else.
"""
