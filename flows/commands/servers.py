"""The commands that need a server, or are one: deploy, serve, up, judge."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import DeployedOrAll, Pool, ProfileName, add_project_options
from flows.commands.printing import escape_control_characters
from flows.commands.project import Project

servers = typer.Typer()


@servers.command()
def deploy(
    project: Project,
    name: DeployedOrAll = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove deployments that the file no longer has.")] = False,
    prefect_yaml: Annotated[
        bool, typer.Option("--prefect-yaml", help="Write them to prefect.yaml beside the file, and register nothing.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Replace those of the same names that another file or store has there.")
    ] = False,
    pool: Pool = "alignflow",
    profile: ProfileName = None,
) -> None:
    """Register deployments with Prefect, after all have compiled.

    They are those that the file defines, and for every pipeline one more, `manual`, without a schedule: so each
    pipeline can be run from Prefect's pages, or by `prefect deployment run NAME/manual`. The server is that of
    `alignflow up`, or PREFECT_API_URL.
    """
    from flows.commands.deploy import register_deployments
    from flows.commands.deployments import ServePaths, deployments, write_prefect_yaml

    place = ServePaths(project.file.absolute(), project.root.absolute(), profile or "")
    found = deployments(place.file, name, cache=project.store.python_cache)
    if prefect_yaml:
        print(f"{write_prefect_yaml(place, found, pool=pool)}: {len(found)} deployments")
        return
    for line in register_deployments(place, found, pool=pool, prune=prune, only=name, take_over=take_over):
        print(line, flush=True)


@servers.command()
def serve(
    project: Project,
    pool: Pool = "alignflow",
    limit: Annotated[
        int, typer.Option(min=1, help="Runs at a time; their heavy steps share the machine's GPUs, or go one by one.")
    ] = 4,
) -> None:
    """Execute scheduled and requested runs of deployments.

    Until Ctrl-C or SIGTERM (exit code 0). Its runs are stopped then; what they finished is kept, and the next run goes
    on there.
    """
    from flows.commands.serve import serve_deployments

    serve_deployments(project.root, pool=pool, limit=limit)


@servers.command()
def up(
    project: Project,
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Prefect's server and pages.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow's pages.")] = 5000,
) -> None:
    """Serve the pages of Prefect and MLflow on loopback.

    Until Ctrl-C or SIGTERM (exit code 0). `deploy` and `serve` on the same artifacts use this Prefect server, and its
    pages show all runs; if one of the two ends, so does the other (exit code 1).
    """
    from flows.commands.up import serve_web_uis

    serve_web_uis(project.root, prefect_port, mlflow_port, link=sys.stdout.isatty())


@servers.command()
def judge(
    project: Project,
    name: Annotated[str | None, typer.Argument(help="A survey; default: list them.", show_default=False)] = None,
    annotator: Annotated[
        str | None, typer.Option("--annotator", metavar="ME", help="Who judges; default: the page asks.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0: any that is free.")] = 4300,
    host: Annotated[str, typer.Option(help="Address of the page; others than this can be reached from outside.")] = (
        "127.0.0.1"
    ),
    report: Annotated[bool, typer.Option("--report", help="Show who judged how, and how far they agree.")] = False,
    to: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write the pairs as FILE.csv, or FILE.json for Label Studio."),
    ] = None,
    of: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Read judgements from such a file.")
    ] = None,
) -> None:
    """Serve the page on which people compare answers, or list what waits for them.

    Keys: A and B for the better answer, T for a tie, S to skip, U to undo. Several people may judge at once, each by
    her name. Until Ctrl-C or SIGTERM; what was judged is kept.
    """
    from flows.commands import judge as judging
    from flows.store.store import ANSWERS
    from flows.system.modes import own_umask

    with own_umask() if to else nullcontext():  # what is exported is no part of the store
        answers = project.root / ANSWERS
    if name is None:
        print(escape_control_characters("\n".join(judging.waiting_lines(answers))))
        return
    judging.judge_survey(answers, name, annotator, (host, port), report=report, export=to, read=of)


add_project_options(servers)
