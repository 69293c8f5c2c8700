"""Where a step's task executes: child processes of a forkserver on this machine."""
