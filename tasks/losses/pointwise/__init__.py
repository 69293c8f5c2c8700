"""Losses on single answers (WinRates, Labels or Demonstrations)."""
