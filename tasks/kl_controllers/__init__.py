"""How the coefficient of the KL penalty goes on after an iteration (`tasks/calls.py`): the choice returns the next."""
