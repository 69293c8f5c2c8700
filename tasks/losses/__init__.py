"""Losses: pure functions of tensors. The folder says what a loss works on; the trainer fills its arguments by name."""
