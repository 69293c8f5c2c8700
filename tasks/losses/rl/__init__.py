"""Objectives of reinforcement learning: losses per answer token, which `ppo` averages over a minibatch. An objective
names any of these arguments, `(M,)` each, and gives `(M,)`:

- logps: log-probability of the token under the policy
- old_logps: the same under the policy that drew it
- advantages: how much better than expected the answer turned out behind the token
"""
