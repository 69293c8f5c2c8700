"""Where prompts, answers, pairs and policies come from: one choice per file."""
