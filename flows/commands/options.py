"""The arguments and options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.project import Project


class Sort(StrEnum):
    """The order in which `show` lists the prompts of an evaluation."""

    FIRST = "first"
    BEST = "best"
    WORST = "worst"
    RANDOM = "random"


class Dtype(StrEnum):
    """The type of the weights that `export` writes."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


AsJson = Annotated[bool, typer.Option("--json", help="The same facts for scripts.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A pipeline.", show_default=False)]
Names = Annotated[
    str, typer.Argument(metavar="NAME[,NAME…]", help="A pipeline, or several, separated by commas.", show_default=False)
]
Deployed = Annotated[
    str, typer.Argument(metavar="NAME", help="A pipeline, or PIPELINE/DEPLOYMENT.", show_default=False)
]
DeployedOrAll = Annotated[
    str | None, typer.Argument(help="A pipeline, or PIPELINE/DEPLOYMENT; default: all.", show_default=False)
]
Values = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Parameters; each value is YAML.", show_default=False),
]
Again = Annotated[bool, typer.Option("--again", help="Record a new run even if it only repeats a finished one.")]
Ref = Annotated[
    str, typer.Argument(metavar="REF", help="RUN, RUN:STEP, NAME/STEP or a digest's first letters.", show_default=False)
]
SortBy = Annotated[
    Sort,
    typer.Option(help="Of answers before and after: the table's first prompts, those where the policy does best or "
                 "worst by the oracle, or random ones (the same each time)."),
]  # fmt: skip
Compared = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="A run's id, its first letters, `last`, a pipeline for its last finished "
                   "run, or PIPELINE/DEPLOYMENT for its last tick.", show_default=False),
]  # fmt: skip
ProfileName = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", envvar="ALIGNFLOW_PROFILE", show_default=False,
                 help="On which devices it runs, and as how many ranks: a profile of the file.",
                 callback=lambda name: select_profile(name)),
]  # fmt: skip
AdapterAlone = Annotated[bool, typer.Option("--adapter", help="Of an adapter its layers alone, as peft reads them.")]
WeightDtype = Annotated[
    Dtype | None,
    typer.Option("--dtype", help="Type of the weights of an adapter's whole model.", show_default="float32"),
]
Pool = Annotated[str, typer.Option("--pool", help="Prefect's work pool in which runs wait.")]
PROJECT_OPTIONS = {
    "file": Annotated[
        Path | None, typer.Option("--file", help="Pipelines file; default: pipelines.yaml upwards from here.")
    ],
    "artifacts": Annotated[
        Path | None,
        typer.Option("--artifacts", envvar="ALIGNFLOW_ARTIFACTS", help="Where results are; default: beside the file."),
    ],
    "extend": Annotated[
        list[Path] | None,
        typer.Option("--extend", metavar="DIR", help="A folder of your own tasks and choices, besides those that the "
                     "file names; also ALIGNFLOW_EXTEND."),
    ],
}  # fmt: skip


def select_profile(name: str | None) -> str | None:
    """From now on this process, and what it starts, compiles pipelines for the profile NAME."""
    if name is not None:
        os.environ["ALIGNFLOW_PROFILE"] = name
    return name


_given: list[str] = []
"""The options of this command line that say which project it is."""


def repeated_options() -> list[str]:
    """The options that name this project and its present profile, for a command line that repeats this one."""
    name = os.environ.get("ALIGNFLOW_PROFILE")
    return [*_given, *(["--profile", name] if name else [])]


def add_project_options(app: typer.Typer) -> None:
    """Give every command with the parameter `project` the options that say which project it is."""
    for info in app.registered_commands:
        if info.callback and "project" in signature(info.callback).parameters:
            info.callback = _with_project_options(info.callback)


def _with_project_options(command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def extended(
        *args: Any, file: Path | None, artifacts: Path | None, extend: list[Path] | None, **options: Any
    ) -> Any:
        in_environment = str(artifacts) == os.environ.get("ALIGNFLOW_ARTIFACTS")
        given = [("--file", file), ("--artifacts", None if in_environment else artifacts)]
        given += [("--extend", folder) for folder in extend or ()]
        _given[:] = [word for option, value in given if value is not None for word in (option, str(value))]
        if extend:
            os.environ["ALIGNFLOW_EXTEND"] = os.pathsep.join(str(folder.absolute()) for folder in extend)
        return command(*args, project=Project(file, artifacts), **options)

    own = signature(command, eval_str=True)
    added = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in PROJECT_OPTIONS.items()
    ]
    kept = [parameter for name, parameter in own.parameters.items() if name != "project"]
    extended.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    extended.__annotations__ = {**command.__annotations__, **PROJECT_OPTIONS}
    del extended.__annotations__["project"]
    return extended
