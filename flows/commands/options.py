"""The arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
