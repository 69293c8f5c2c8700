"""Reinforcement learning on sampled answers: rollouts, advantages, updates, and what a later round goes on from."""
