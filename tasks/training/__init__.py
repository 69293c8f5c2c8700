"""Training: rows to batches, batches to log-probabilities, log-probabilities to an optimizer step. Torch lives here."""
