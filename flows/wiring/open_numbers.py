"""Numbers in place of parameters without a value, so that composites can compute with them in `check`."""

from __future__ import annotations

from typing import Any

from flows.wiring.signatures import Param
from flows.wiring.tree import Missing
from tasks.contract import JSON, Bounds


class _OpenInt(int):
    """A number in place of a parameter without a value."""

    missing: Missing


class _OpenFloat(float):
    """The same for `float`."""

    missing: Missing


def stand_in(param: Param, value: JSON) -> JSON:
    """The value; where there is none yet, a number within its bounds, which `restore_values` replaces."""
    if not isinstance(value, Missing) or param.type.base not in ("int", "float", "bool"):
        return value
    if param.type.base == "bool":
        return bool(param.default)
    open_number = (_OpenInt if param.type.base == "int" else _OpenFloat)(_within(param))
    open_number.missing = value
    return open_number


def _within(param: Param) -> float:
    """The parameter's default, or a number inside its bounds."""
    if param.default is not None:
        return param.default  # type: ignore[return-value]
    bounds = param.type.bounds or Bounds()
    lower = next((b for b in (bounds.min, bounds.above) if b is not None), 0)
    upper = next((b for b in (bounds.max, bounds.below) if b is not None), None)
    if param.type.base == "float":
        return lower + 1.0 if upper is None else (lower + upper) / 2
    return int(lower) + 1 if upper is None or bounds.min is None else int(lower)


def restore_values(value: Any) -> Any:
    """The parameter without a value in place of its number, unless the composite has computed with it."""
    return value.missing if isinstance(value, _OpenInt | _OpenFloat) else value
