"""Deployments that go on where the last tick stopped: the ledger, what it comes to, and the ticks."""
