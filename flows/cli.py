"""The command `alignflow`. Every command imports only what it needs: all but `run` answer at once.

Exit codes: 0 done, 1 a step failed, 2 the request was wrong, 3 waiting for people, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.errors import Commands, with_plain_errors
from flows.commands.options import (
    AdapterAlone,
    Again,
    AsJson,
    Compared,
    Deployed,
    DeployedOrAll,
    Names,
    ProfileName,
    Ref,
    Sort,
    SortBy,
    Values,
    WeightDtype,
    add_project_options,
)
from flows.commands.printing import console, escape_control_characters, json_text
from flows.commands.project import Project, parse_assignments
from flows.commands.servers import servers
from flows.system.environment import without_proxy

app = typer.Typer(
    help=(
        "LLM alignment as declarative dataflow: pipelines.yaml → typed graph → cached tasks.\n\n"
        "STEP is `policy`, `policy@2` (round 2) or `report/sample@2`; RUN is a run's id or `last`; REF is `RUN:STEP`, "
        "`NAME/STEP` of the pipeline's last run, or a digest's first letters."
    ),
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


def main() -> None:
    """Run the command line; a user's mistake ends in one message and an exit code, never in a traceback."""
    os.environ.update(without_proxy())
    with_plain_errors(lambda: app(prog_name="alignflow"))


@app.command("list")
def list_(
    project: Project,
    choices: Annotated[bool, typer.Option("--choices", help="Show what steps may name: tasks and choices.")] = False,
    shipped: Annotated[bool, typer.Option("--shipped", help="Show what `extends: alignflow#NAME` may name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the pipelines and their descriptions."""
    from flows.commands import list as listing
    from flows.wiring.text import PipelineFile
    from flows.wiring.variants import SHIPPED

    project = Project(SHIPPED, project.artifacts) if shipped else project
    entries = listing.choices(project.catalogue()) if choices else listing.pipelines(PipelineFile(project.file))
    print(json_text(entries) if as_json else escape_control_characters("\n".join(listing.lines(entries))))


@app.command()
def new(folder: Annotated[Path, typer.Argument(metavar="NAME", help="The folder to make.")]) -> None:
    """Write a small project to start from. It has a loss, an oracle, a wiring and a test of your own."""
    from flows.commands.new import write_project

    written = "\n".join(map(str, write_project(folder)))
    print(f"{written}\n\ncd {folder} && alignflow check && alignflow run quick")


@app.command()
def check(
    project: Project,
    name: DeployedOrAll = None,
    deep: Annotated[bool, typer.Option("--deep", help="Call losses and rules on made-up numbers, too.")] = False,
    profile: ProfileName = None,
    as_json: AsJson = False,
) -> None:
    """Validate pipelines, deployments and choices. Nothing runs."""
    from flows.commands.check import check_project, check_results_json, check_results_text

    results = check_project(project, name, deep=deep)
    text = "\n".join(check_results_text(results))
    print(json_text(check_results_json(results)) if as_json else escape_control_characters(text))
    raise typer.Exit(2 if any(result.error for result in results) else 0)


@app.command()
def graph(
    project: Project,
    name: Deployed,
    values: Values = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Draw a Mermaid flowchart.")] = False,
    states: Annotated[bool, typer.Option("--states", help="Mark every step as cached or to run.")] = False,
) -> None:
    """Draw the graph of a pipeline."""
    from flows.planning.plan import make_plan
    from flows.wiring.draw import draw_graph

    compiled = project.graph(name, values, lenient=not states)
    known = make_plan(compiled, project.store).states if states else {}
    print(draw_graph(compiled, "mermaid" if mermaid else "text", known, colour=sys.stdout.isatty()), end="")


@app.command()
def plan(
    project: Project, name: Deployed, values: Values = None, profile: ProfileName = None, as_json: AsJson = False
) -> None:
    """Show what is cached, what will run, why, and the cost."""
    from flows.planning.plan import make_plan

    planned = make_plan(project.graph(name, values), project.store)
    text = "\n".join([planned.text(), *(f"note: {notice}" for notice in planned.notices)])
    print(json_text(planned.as_json()) if as_json else escape_control_characters(text))


@app.command()
def run(
    project: Project,
    name: Deployed,
    values: Values = None,
    fresh: Annotated[
        list[str] | None, typer.Option(metavar="STEP", help="Compute this step again, whatever the store holds.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Tick even where the deployment is stalled.")] = False,
    again: Again = False,
    profile: ProfileName = None,
) -> None:
    """Run a pipeline, or ticks of a continuing deployment. What is in the store is not computed again.

    `rounds=N` makes N ticks. If a finished run has the same parameters and all its results are in the store, its table
    is shown at once.
    """
    from flows.commands.run_ticks import run_named

    code = run_named(
        project.file, project.store, project.target(name), parse_assignments(values), console(),
        fresh=fresh or [], force=force, again=again,
    )  # fmt: skip
    raise typer.Exit(code)


@app.command()
def sweep(
    project: Project, names: Names, values: Values = None, again: Again = False, profile: ProfileName = None
) -> None:
    """Run pipelines for every combination of values. KEY=V1,V2,… gives them; what the runs share is computed once."""
    from flows.commands.sweep import run_sweep

    grid = parse_assignments(values)
    raise typer.Exit(run_sweep(project.file, project.store, names.split(","), grid, console(), again=again))


@app.command()
def show(
    project: Project,
    ref: Ref,
    rows: Annotated[int, typer.Option(min=1, help="Rows or prompts that are shown.")] = 5,
    sort: SortBy = Sort.FIRST,
    lineage: Annotated[bool, typer.Option("--lineage", help="Show all of the lineage.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run, or an artifact and where it came from.

    Reports show their numbers; reports and policies show answers of the base and of the policy side by side, with
    P(the policy's answer beats the base's) of that pair.
    """
    from flows.commands.show import show_json, show_text

    if as_json:
        print(json_text(show_json(project.store, ref, rows, sort)))
    else:
        show_text(project.store, ref, rows, console(), whole=lineage, sort=sort)


@app.command("compare")
def compare_(
    project: Project,
    refs: Compared,
    rounds: Annotated[bool, typer.Option("--rounds", help="Show every round, not only the last.")] = False,
    unranked: Annotated[
        bool, typer.Option("--unranked", help="Show runs that were measured differently; no ranks, no figures.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the figures go; default: among the artifacts.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs by win rate, gold, KL and cost. Also shows which differences are significant, and draws figures."""
    from flows.commands.compare import compare_json, compare_text

    if as_json:
        print(json_text(compare_json(project.store, refs, ranked=not unranked, out=out)))
    else:
        compare_text(project.store, refs, console(), rounds=rounds, ranked=not unranked, out=out)


@app.command()
def report(
    project: Project,
    refs: Compared,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write; default: artifacts/reports/RUN.html.")
    ] = None,
    unranked: Annotated[
        bool, typer.Option("--unranked", help="Show runs that were measured differently; no ranks, no figures.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the page of a run, or of several with their comparison. It is one HTML file, which needs no network."""
    from flows.commands.report import report_json, report_text

    if as_json:
        print(json_text(report_json(project.store, refs, ranked=not unranked, out=out)))
    else:
        report_text(project.store, refs, console(), ranked=not unranked, out=out)


@app.command()
def rounds(
    project: Project,
    name: Deployed,
    back_to: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Go on from what round N left; 0: from the start.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the rounds of a deployment, or roll back its head. Nothing is deleted."""
    from flows.commands.rounds import roll_back, rounds_json, rounds_text

    store, find = project.store, lambda: project.file
    done = None if back_to is None else roll_back(store, name, back_to, find)
    if as_json:
        print(json_text(rounds_json(store, name, find)))
    elif done:
        print(done)
    else:
        rounds_text(store, name, console(), find)


@app.command()
def explain(
    project: Project,
    a: Ref,
    b: Ref,
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The artifacts folder of the second; default: the first's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show why two runs, or two results, differ. Names the first step that differs, and what in its key or content."""
    from flows.commands.explain import explain_json, explain_text

    other = Project(artifacts=against).store if against else project.store
    print(json_text(explain_json(project.store, a, other, b)) if as_json else explain_text(project.store, a, other, b))


@app.command()
def accept(project: Project, name: Deployed, step: str, values: Values = None) -> None:
    """Accept old results of STEP after a harmless edit of code. Their records say that they were accepted."""
    from flows.commands.accept import accept_step

    for line in accept_step(project.graph(name, values), project.store, step):
        print(line)


@app.command()
def export(
    project: Project, ref: Ref, directory: Path, layers: AdapterAlone = False, dtype: WeightDtype = None
) -> None:  # fmt: skip
    """Write an artifact for other programs. A model becomes a plain Hugging Face directory, also where it is an adapter
    of another one, a table Parquet files, an oracle its specification.

    What training keeps beside a policy (value network, optimizer, checkpoints) is left out: the steps `value_of` and
    `checkpoint_at` give it.
    """
    from flows.commands.export import export_to
    from flows.system.modes import own_umask

    with own_umask():  # what is exported is no part of the store
        store = project.store
    for path in export_to(store, ref, directory, layers=layers, dtype=dtype):
        print(path)


@app.command()
def push(
    project: Project,
    ref: Ref,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="The repository, ORG/NAME; made where there is none.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is not public.")] = False,
    base: Annotated[
        str, typer.Option("--base", metavar="ORG/NAME", help="The hub's name of an adapter's base.", show_default=False)
    ] = "",
) -> None:
    """Push a model or a table to the Hugging Face hub, with a card made from its lineage.

    An adapter goes there as peft stores it, a table as Parquet. The token is that of `hf auth login` or HF_TOKEN.
    HF_ENDPOINT names another hub.
    """
    from flows.commands.push import push_to

    print(push_to(project.store, ref, repo, private=private, base=base))


@app.command()
def verify(project: Project) -> None:
    """Compare every result with its digest. Damaged ones are set aside and made again when needed."""
    from flows.commands.maintenance import verify_text

    raise typer.Exit(verify_text(project.store))


@app.command()
def gc(
    project: Project,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    keep_runs: Annotated[
        int | None,
        typer.Option(
            "--keep-runs",
            metavar="N",
            min=1,
            help="Delete results, too, that none of the last N runs of a pipeline or deployment, no head of a loop and "
            "no tag needs; reports stay. Refused while a run is at work.",
        ),
    ] = None,
    answers: Annotated[
        float | None,
        typer.Option(
            "--answers", metavar="DAYS", min=0, help="Delete answers of oracles that are so old, too; else they stay."
        ),
    ] = None,
) -> None:
    """Delete what no record and no ledger names. That is damaged data, half writes, work left by finished steps."""
    from flows.commands.maintenance import gc_text

    gc_text(project.store, dry=dry, answers_after=answers, keep_runs=keep_runs)


@app.command()
def tag(
    project: Project,
    ref: Annotated[str | None, typer.Argument(metavar="REF", help="What is tagged; default: list all tags.")] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Its tag, which every REF may be then.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Forget the tag REF; its result stays.")] = False,
) -> None:
    """Give a result a name of your own, and keep it from `gc --keep-runs`. A tag moves when it is given again."""
    from flows.commands.tag import tag_lines

    for line in tag_lines(project.store, ref, name, delete=delete):
        print(line)


@app.command("import")
def import_(
    project: Project,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The artifacts folder that it comes from.")],
    ref: Ref,
) -> None:
    """Bring a run or a result from another artifacts folder, with its lineage. Every byte is checked by its digest."""
    from flows.commands.import_ import import_lines

    for line in import_lines(project.store, directory, ref):
        print(line)


@app.command()
def schema(project: Project) -> None:
    """Print the JSON Schema of pipelines.yaml, for editors."""
    from flows.wiring.schema import json_schema

    print(json_text(json_schema(project.catalogue())))


add_project_options(app)
app.add_typer(servers)

if __name__ == "__main__":
    main()
