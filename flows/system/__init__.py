"""What the machine gives: locks, files, disks, permissions, environment variables, SQLite files."""
