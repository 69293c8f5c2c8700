"""Losses on the ranked answers of a prompt (Rankings): `(B, K)` arguments with a mask, `(B,)` results."""
