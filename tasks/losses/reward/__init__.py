"""Losses of reward models, on pairs (Preferences). A loss names any of these arguments, `(B,)` each, and gives `(B,)`:

- chosen_scores, rejected_scores: what the model scores the pair's answers
- margin: how much better the chosen answer is; null counts as 0
"""
