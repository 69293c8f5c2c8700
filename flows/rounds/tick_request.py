"""A request for ticks: parameters, how many rounds, and whether to make them even where the loop is stalled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from flows.wiring.grammar import MOST_ROUNDS, TICKS
from flows.wiring.tree import quoted
from tasks.contract import JSON, SpecError


class TickRequest(NamedTuple):
    """A request for ticks."""

    parameters: Mapping[str, JSON]
    """Overrides as given."""
    rounds: int
    force: bool


def tick_request(values: Mapping[str, JSON]) -> TickRequest:
    """The request that `KEY=VALUE` texts make. Raises SpecError."""
    rounds, force = str(values.get("rounds", "1")), str(values.get("force", "false"))
    if not re.fullmatch(r"[0-9]{1,9}", rounds) or not 1 <= int(rounds) <= MOST_ROUNDS:
        what = f"the number of ticks must be a whole number from 1 to {MOST_ROUNDS}"
        raise SpecError(f"command line: rounds = {quoted(rounds)}; {what}")
    if force not in ("true", "false"):
        raise SpecError(f"command line: force = {quoted(force)}; choose one of [false, true]")
    return TickRequest({n: v for n, v in values.items() if n not in TICKS}, int(rounds), force == "true")
