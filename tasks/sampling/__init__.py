"""Shared code of the sampling engines: requests and answers, keyed noise, sampling of a token, stop strings."""
