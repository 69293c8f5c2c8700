"""Objectives of reinforcement learning, per token: see `clipped`."""
