"""What each method of reinforcement learning adds to the common loop (`tasks/rollouts/method.py`)."""
