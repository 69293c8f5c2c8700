"""A method of our own: fine-tuning on all answers, each weighted by how often it wins."""

from __future__ import annotations

from typing import Annotated

import polars as pl

from tasks.contract import Bounds, Workspace
from tasks.kinds import WinRates


def weigh_by_wins(table: WinRates, work: Workspace, *, eta: Annotated[float, Bounds(above=0)] = 3.0) -> WinRates:
    """Gives each answer the weight exp(η·P) / mean over the answers to its prompt, with P its win rate.

    Fine-tuning on these weights is maximum likelihood of π_t·exp(η·P(y ≻ π_t)) / Z, the update that SPPO reaches by
    regression; weighted likelihood goes back to reward-weighted regression (Peters and Schaal, 2007).

    Args:
        eta: step size in nats; at 0 all answers would weigh the same.
    """
    wins = (eta * pl.col("win_rate")).exp()
    weighted = table.frame.with_columns(weight=wins / wins.mean().over("prompt_id"))
    work.notice(f"the largest weight is {weighted['weight'].max():.2f}")
    return WinRates.of(weighted, table.metadata)
