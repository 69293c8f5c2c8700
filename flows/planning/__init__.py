"""What a run would do, at what cost, and why."""
