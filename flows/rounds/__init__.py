"""Deployments that continue: ledger, history, gate, ticks."""
