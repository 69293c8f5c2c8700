"""Losses on the ranked answers of a prompt (Rankings). A loss names any of these arguments, `(B, K)` each, and gives
`(B,)`, one loss per prompt:

- policy_logps: log-probability of each answer under the policy, summed over its tokens
- ref_logps: the same under the reference; then `train` needs a `ref`
- lengths: tokens of each answer
- target_scores: what each answer was scored
- mask: where there is an answer, bool; elsewhere log-probabilities and scores are 0 and lengths 1
"""
