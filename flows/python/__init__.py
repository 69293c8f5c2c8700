"""Python source, read without importing it: signatures, and the code that a task reaches."""
