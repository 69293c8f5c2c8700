"""Losses on single answers. A loss names any of these arguments, `(B,)` each but the one said, and gives `(B,)`:

- policy_logps: log-probability of the answer under the policy, summed over its tokens
- ref_logps: the same under the reference; then `train` needs a `ref`
- lengths: tokens of the answer
- win_rate: mean P of winning (WinRates)
- prompt_win_rates: those of all answers to the prompt, `(B, K)`, NaN where there are fewer (WinRates)
- label: whether the answer is desirable, bool (Labels)

A loss works on WinRates or on Labels if it names a column that only these have, else on Demonstrations or Completions.
"""
