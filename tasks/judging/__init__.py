"""Oracle queries and what is computed from the answers: pairs, win rates, rankings, games."""
