"""Asking oracles, and what follows from their answers: questions, pairs of rows, win rates."""
