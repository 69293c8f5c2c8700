"""What Python source says: signatures, and the code that a task reaches."""
