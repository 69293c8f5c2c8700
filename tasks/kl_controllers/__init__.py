"""How the coefficient of the KL penalty goes on after an iteration: pure functions of (coefficient, kl, samples)."""
