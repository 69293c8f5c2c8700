"""Controllers of the KL penalty (`tasks/calls.py`): the choice returns the coefficient for the next iteration."""
