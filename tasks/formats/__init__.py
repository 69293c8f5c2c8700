"""External data: files, hub datasets, and the row formats that are supported."""
