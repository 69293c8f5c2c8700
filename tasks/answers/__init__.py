"""The store of answers: what oracles answered, so that no question is asked twice, whichever step or run asks it."""
