"""Code digests, content digests, keys and records: what was made from what, and whether it is still here."""
