"""The arguments and options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

import typer

File = Annotated[Path | None, typer.Option("--file", help="Pipelines file; default: pipelines.yaml upwards from here.")]
Artifacts = Annotated[
    Path | None,
    typer.Option("--artifacts", envvar="ALIGNFLOW_ARTIFACTS", help="Where results are; default: beside the file."),
]
AsJson = Annotated[bool, typer.Option("--json", help="The same facts for scripts.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A pipeline.", show_default=False)]
Deployed = Annotated[
    str, typer.Argument(metavar="NAME", help="A pipeline, or PIPELINE/DEPLOYMENT.", show_default=False)
]
Values = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Parameters; each value is YAML.", show_default=False),
]
Ref = Annotated[
    str, typer.Argument(metavar="REF", help="RUN, RUN:STEP, NAME/STEP or a digest's first letters.", show_default=False)
]
Against = Annotated[
    Path | None,
    typer.Option("--against", metavar="DIR", help="Artifacts that the second lies in; default: the first's."),
]
Pool = Annotated[str, typer.Option("--pool", help="Prefect's work pool in which runs wait.")]
Extend = Annotated[
    list[Path] | None,
    typer.Option("--extend", metavar="DIR", help="A folder of your own tasks and choices, besides those that the file "
                 "names; also ALIGNFLOW_EXTEND."),
]  # fmt: skip


def add_extend(app: typer.Typer) -> None:
    """Give every command that takes `--file` the option `--extend`, too."""
    for info in app.registered_commands:
        if info.callback and "file" in signature(info.callback).parameters:
            info.callback = _with_extend(info.callback)


def _with_extend(command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def extended(*args: Any, extend: list[Path] | None, **options: Any) -> Any:
        if extend:
            os.environ["ALIGNFLOW_EXTEND"] = os.pathsep.join(str(folder.absolute()) for folder in extend)
        return command(*args, **options)

    more = Parameter("extend", Parameter.KEYWORD_ONLY, default=None, annotation=Extend)
    of_command = signature(command, eval_str=True)
    extended.__signature__ = of_command.replace(parameters=[*of_command.parameters.values(), more])  # type: ignore[attr-defined]
    extended.__annotations__ = {**command.__annotations__, "extend": Extend}
    return extended
