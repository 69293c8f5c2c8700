"""Losses: pure functions of tensors, one folder per family. The trainer fills their arguments by name."""
