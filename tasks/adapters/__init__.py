"""Adapters: small layers that learn beside a frozen base."""
