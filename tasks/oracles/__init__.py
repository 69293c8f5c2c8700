"""Who decides which of two answers is better: one choice per file."""
