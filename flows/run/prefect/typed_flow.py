"""A Prefect flow with a pipeline's own parameters: types, bounds, choices and texts, as its form shows them."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prefect import Flow
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled
from prefect.task_runners import ThreadPoolTaskRunner

from flows.wiring.annotations import annotation
from flows.wiring.model import Parameter
from tasks.contract import JSON, SpecError


def typed_flow(
    name: str, about: str, parameters: Mapping[str, Parameter], body: Callable[[dict[str, JSON]], Any],
    run_name: str | None = None,
) -> Flow[Any, Any]:  # fmt: skip
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
    """A flow that takes any values of these parameters and fails with `why`."""

    def pipeline(**_: JSON) -> Any:
        raise SpecError(why)

    arguments = [inspect.Parameter(p, inspect.Parameter.KEYWORD_ONLY, default=None) for p in parameters]
    pipeline.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
    return Flow(fn=pipeline, name=name.split("__")[0])


def _argument(p: Parameter) -> inspect.Parameter:
    default = inspect.Parameter.empty if p.required else p.value
    return inspect.Parameter(p.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation(p.type))


def _docstring(about: str, parameters: Mapping[str, Parameter]) -> str:
    lines = [f"    {p.name}: {' '.join(p.help.split()) or 'a value of this pipeline.'}" for p in parameters.values()]
    return "\n".join([about or "A pipeline.", "", "Args:", *lines]) if lines else about
