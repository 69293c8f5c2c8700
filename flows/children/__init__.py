"""Where tasks run: children of one forkserver, the slot for heavy work, the snapshot of the code."""
