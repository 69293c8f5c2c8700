"""A Prefect flow with a pipeline's own parameters: types, bounds, choices and texts, as its form shows them."""

from __future__ import annotations

import ast
import inspect
import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Union

from prefect import Flow
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.wiring.model import Parameter
from tasks.contract import JSON, SpecError

SCALARS: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "Seed": int}


def typed_flow(
    name: str,
    about: str,
    parameters: Mapping[str, Parameter],
    body: Callable[[dict[str, JSON]], Any],
    run_name: str | None = None,
) -> Flow[Any, Any]:
    """A flow of that name, whose function has one keyword-only argument per parameter and calls `body` with all.

    Ctrl-C and SIGTERM end it as cancelled.
    """

    def pipeline(**values: JSON) -> Any:
        try:
            return body(values)
        except (KeyboardInterrupt, TerminationSignal):  # Prefect would call it crashed
            return Cancelled(message="stopped; what is finished is kept")

    shown = {n: p for n, p in parameters.items() if n.isidentifier() and not keyword.iskeyword(n)}
    arguments = [_argument(p) for p in sorted(shown.values(), key=lambda p: not p.required)]
    pipeline.__name__ = pipeline.__qualname__ = re.sub(r"\W", "_", name)
    pipeline.__doc__ = _docstring(about, shown)
    pipeline.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
    pipeline.__annotations__ = {a.name: a.annotation for a in arguments}
    return Flow(fn=pipeline, name=name, flow_run_name=run_name, task_runner=ThreadPoolTaskRunner())


def refused_flow(name: str, why: str, parameters: Iterable[str]) -> Flow[Any, Any]:
    """A flow that takes these parameters, whatever they are, and fails with what was refused."""

    def pipeline(**_: JSON) -> Any:
        raise SpecError(why)

    arguments = [inspect.Parameter(p, inspect.Parameter.KEYWORD_ONLY, default=None) for p in parameters]
    pipeline.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
    return Flow(fn=pipeline, name=name.split("__")[0])


def _argument(p: Parameter) -> inspect.Parameter:
    default = inspect.Parameter.empty if p.required else p.value
    return inspect.Parameter(p.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation(p))


def _docstring(about: str, parameters: Mapping[str, Parameter]) -> str:
    lines = [f"    {p.name}: {' '.join(p.help.split()) or 'a value of this pipeline.'}" for p in parameters.values()]
    return "\n".join([about or "A pipeline.", "", "Args:", *lines]) if lines else about


def annotation(p: Parameter) -> Any:
    """The type that Prefect validates and shows: `Annotated[int, ge=1]`, `Literal["dpo", "ipo"] | dict`, …"""
    if not p.annotation:
        return Any
    return _type(ast.parse(p.annotation, mode="eval").body, p)


def _type(node: ast.expr, p: Parameter) -> Any:
    if isinstance(node, ast.BinOp):
        return Union[_type(node.left, p), _type(node.right, p)]
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.Name):
        return _bounded(SCALARS.get(node.id, Any), p)
    if not isinstance(node, ast.Subscript):
        return Any
    outer = ast.unparse(node.value)
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if outer == "Literal":
        return Literal[tuple(ast.literal_eval(e) for e in inner)]
    if outer == "list":
        return list[_type(inner[0], p)]  # type: ignore[misc]
    if outer == "Annotated" and "Choice(" in ast.unparse(node):
        return _choice(p, anything="other=" in ast.unparse(node))
    return _type(inner[0], p)  # Annotated[T, Bounds(...)], Execution[T]


def _bounded(scalar: Any, p: Parameter) -> Any:
    if scalar not in (int, float) or (p.min, p.max, p.above, p.below) == (None, None, None, None):
        return scalar
    return Annotated[scalar, Field(ge=p.min, le=p.max, gt=p.above, lt=p.below)]


def _choice(p: Parameter, *, anything: bool) -> Any:
    """A name, or `{name: {parameter: value}}`; where the choice has an `other`, any text."""
    named: Any = Annotated[Literal[p.choices] if p.choices else str, Field(title="name")]
    with_parameters: Any = Annotated[dict[str, Any], Field(title="name: {parameter: value}")]
    other: Any = Annotated[str, Field(title="path or id")]
    return Union[named, with_parameters, other] if anything else Union[named, with_parameters]
