"""Optimizers. Each gets the parameters in groups, of which those with `decays` are matrices, and learning rates at each
step. `state_bytes` beside it says what it keeps; `check_machine` whether it can be used on this machine."""
