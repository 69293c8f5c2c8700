"""Quantities measured by prompt, each with its unit, and the Report that states them."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import polars as pl

from tasks.judging.intervals import interval
from tasks.judging.measuring import per_prompt, per_prompt_table
from tasks.kinds import Report

BOUNDED = ("share", "probability")
"""Units of quantities in [0, 1], whose intervals are Wilson's."""


class Quantity(NamedTuple):
    """One number by prompt."""

    values: pl.DataFrame
    """prompt_id, value (null: unknown)"""
    unit: str


def mean_by_prompt(rows: pl.DataFrame, column: str, unit: str) -> Quantity:
    """The mean of a column over each prompt's rows, nulls apart."""
    return Quantity(per_prompt(rows, column), unit)


def quantities_report(
    quantities: Mapping[str, Quantity], prompts: list[str], further: Iterable[Mapping[str, Any]] = ()
) -> Report:
    """The mean of each quantity over prompts with its 95% interval, as `eval/<name>`, and its values by prompt.

    further: rows that are no means over prompts.
    """
    rows = [_row(name, quantity) for name, quantity in quantities.items()]
    table = pl.DataFrame([*rows, *further], schema_overrides=dict.fromkeys(("value", "ci_low", "ci_high"), pl.Float64))
    values = {name: quantity.values for name, quantity in quantities.items()}
    return Report.of(table).with_per_prompt(per_prompt_table(prompts, values))


def _row(name: str, quantity: Quantity) -> dict[str, Any]:
    known = quantity.values["value"].drop_nulls().to_numpy()
    return interval(known, share=quantity.unit in BOUNDED).report_row(name, quantity.unit)


def number_row(name: str, value: float | None, n: int, unit: str) -> dict[str, Any]:
    """A row of a Report without an interval."""
    return {"name": f"eval/{name}", "value": value, "ci_low": None, "ci_high": None, "n": n, "unit": unit}
