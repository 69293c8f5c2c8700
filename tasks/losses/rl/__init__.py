"""Objectives of reinforcement learning: losses per answer token, `(M,)`, which `ppo` averages over a minibatch.

An objective may name logps, old_logps and advantages, all `(M,)`.
"""
