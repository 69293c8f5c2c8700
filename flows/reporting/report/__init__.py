"""The report page: what a run was, what it measured and how its answers changed, in one HTML file."""
