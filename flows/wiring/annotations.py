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


def annotation(kind: Type | None, at_each_depth: Callable[[Any], Any] = lambda form: form) -> Any:
    """`Annotated[int, Field(ge=1)]`, `Literal["all", "best_and_worst"]`, …; anything where the type is not known.

    at_each_depth: is applied to the annotation of the value, and of each item of a list.
    """
    if kind is None:
        return Any
    if kind.base == "choice":
        form = _choice(kind)
    elif kind.base == "literal":
        form = Literal[kind.options]
    elif kind.base == "list" and kind.item:
        form = list[annotation(kind.item, at_each_depth)]  # type: ignore[misc]
        form = Annotated[form, Field(min_length=kind.size, max_length=kind.size)] if kind.size else form
    elif kind.base == "mapping" and kind.item:
        form = dict[str, annotation(kind.item, at_each_depth)]  # type: ignore[misc]
    else:
        form = SCALARS[kind.base]
    if b := kind.bounds:
        form = Annotated[form, Field(ge=b.min, le=b.max, gt=b.above, lt=b.below)]
    form = at_each_depth(form)
    return Union[form, None] if kind.optional else form


def _choice(kind: Type) -> Any:
    """A name, or `{name: {parameter: value}}`; where the choice has an `other`, any text."""
    named: Any = Annotated[Literal[kind.options] if kind.options else str, Field(title="name")]
    with_parameters: Any = Annotated[dict[str, Any], Field(title="name: {parameter: value}")]
    other: Any = Annotated[str, Field(title="path or id")]
    return Union[named, with_parameters, other] if kind.choice and kind.choice.other else Union[named, with_parameters]
