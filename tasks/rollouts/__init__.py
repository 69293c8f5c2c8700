"""Reinforcement learning on sampled answers: rollouts, advantages, updates, and the state for a later round."""
