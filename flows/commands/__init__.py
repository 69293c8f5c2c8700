"""What the commands of `flows/cli.py` do."""
