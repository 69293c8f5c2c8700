"""What else could have been answered (`tasks/calls.py`): the choice returns texts to respond with, `list[str]`."""
