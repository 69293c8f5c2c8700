"""Losses on pairs (Preferences). A loss names any of these arguments, `(B,)` each, and gives `(B,)`, one loss per pair:

- policy_chosen_logps, policy_rejected_logps: log-probability of the answer under the policy, summed over its tokens
- ref_chosen_logps, ref_rejected_logps: the same under the reference; then `train` needs a `ref`
- chosen_lengths, rejected_lengths: tokens of the answer
- p: P(chosen beats rejected) as judged; rows in which it is null are refused
- margin: how much better the chosen answer is; null counts as 0
"""
