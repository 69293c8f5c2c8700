"""Types of parameters as pydantic reads them, for Prefect's forms and for the JSON Schema of pipelines files.

Values are checked by `flows.wiring.types`, whose messages name the place and what is allowed; building a validator for
each type would add 30 ms to every command.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Union

from pydantic import Field

from flows.wiring.types import Type

SCALARS: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}


def annotation(kind: Type | None, at_each_depth: Callable[[Any], Any] = lambda found: found) -> Any:
    """`Annotated[int, Field(ge=1)]`, `Literal["all", "best_and_worst"]`, …; anything where the type is not known.

    at_each_depth: is applied to the annotation of the value, and of each item of a list.
    """
    if kind is None:
        return Any
    if kind.base == "choice":
        found = _choice(kind)
    elif kind.base == "literal":
        found = Literal[kind.options]
    elif kind.base == "list" and kind.item:
        found = list[annotation(kind.item, at_each_depth)]  # type: ignore[misc]
        found = Annotated[found, Field(min_length=kind.size, max_length=kind.size)] if kind.size else found
    else:
        found = SCALARS[kind.base]
    if b := kind.bounds:
        found = Annotated[found, Field(ge=b.min, le=b.max, gt=b.above, lt=b.below)]
    found = at_each_depth(found)
    return Union[found, None] if kind.optional else found


def _choice(kind: Type) -> Any:
    """A name, or `{name: {parameter: value}}`; where the choice has an `other`, any text."""
    named: Any = Annotated[Literal[kind.options] if kind.options else str, Field(title="name")]
    with_parameters: Any = Annotated[dict[str, Any], Field(title="name: {parameter: value}")]
    other: Any = Annotated[str, Field(title="path or id")]
    return Union[named, with_parameters, other] if kind.choice and kind.choice.other else Union[named, with_parameters]
