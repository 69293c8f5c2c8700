"""What data looks like outside: files, hub datasets, and the formats their rows have."""
