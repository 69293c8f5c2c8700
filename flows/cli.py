"""The command `alignflow`. Every command imports only what it needs: all but `run` answer at once.

Exit codes: 0 done, 1 a step failed, 2 the request was wrong, 3 waiting for people, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.errors import Commands, console, with_plain_errors
from flows.commands.escaping import escape_control_characters, json_text
from flows.commands.options import Against, Artifacts, AsJson, Deployed, File, Name, Pool, Ref, Values, add_extend
from flows.commands.requests import Sort, deployment_or_pipeline, parse_assignments, pipelines_file
from flows.commands.stores import artifacts_root, catalogue_of_file, compiled_graph, open_store
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
    choices: Annotated[bool, typer.Option("--choices", help="Show what steps may name: tasks and choices.")] = False,
    shipped: Annotated[bool, typer.Option("--shipped", help="Show what `extends: alignflow#NAME` may name.")] = False,
    file: File = None,
    artifacts: Artifacts = None,
    as_json: AsJson = False,
) -> None:
    """Show the pipelines and what they are."""
    from flows.commands import list as listing
    from flows.wiring.text import PipelineFile
    from flows.wiring.variants import SHIPPED

    where = SHIPPED if shipped else pipelines_file(file)
    found = listing.choices(catalogue_of_file(where, artifacts)) if choices else listing.pipelines(PipelineFile(where))
    print(json_text(found) if as_json else escape_control_characters("\n".join(listing.lines(found))))


@app.command()
def new(folder: Annotated[Path, typer.Argument(metavar="NAME", help="The folder to make.")]) -> None:
    """Write a small folder to start from: a loss, an oracle, a wiring and a test of your own."""
    from flows.commands.new import write_project

    written = "\n".join(map(str, write_project(folder)))
    print(f"{written}\n\ncd {folder} && alignflow check && alignflow run quick")


@app.command()
def check(
    name: Annotated[
        str | None, typer.Argument(help="A pipeline, or PIPELINE/DEPLOYMENT; default: all.", show_default=False)
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Call losses and rules on made-up numbers, too.")] = False,
    file: File = None,
    artifacts: Artifacts = None,
    as_json: AsJson = False,
) -> None:
    """Validate pipelines, their deployments and the choices that they may name; nothing runs."""
    from flows.commands.check import check_results_json, check_results_text, code_check_results, try_choices
    from flows.wiring.check_results import check_pipelines
    from flows.wiring.text import PipelineFile

    where = pipelines_file(file)
    store, names = open_store(where, artifacts), [deployment_or_pipeline(where, name)] if name else []
    verdicts = check_pipelines(where, names, cache=store.python_cache)
    verdicts = try_choices(verdicts) if deep else verdicts
    verdicts += code_check_results(store.code(PipelineFile(where).packages))
    text = "\n".join(check_results_text(verdicts))
    print(json_text(check_results_json(verdicts)) if as_json else escape_control_characters(text))
    raise typer.Exit(2 if any(v.error for v in verdicts) else 0)


@app.command()
def graph(
    name: Deployed,
    values: Values = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="A Mermaid flowchart.")] = False,
    states: Annotated[bool, typer.Option("--states", help="Say of each step whether it is cached.")] = False,
    file: File = None,
    artifacts: Artifacts = None,
) -> None:
    """Draw the graph of a pipeline."""
    from flows.wiring.draw import draw_graph

    where = pipelines_file(file)
    compiled = compiled_graph(where, name, values, artifacts, lenient=not states)
    known: dict[str, str] = {}
    if states:
        from flows.planning.plan import make_plan

        known = make_plan(compiled, open_store(where, artifacts)).states
    print(draw_graph(compiled, "mermaid" if mermaid else "text", known, colour=sys.stdout.isatty()), end="")


@app.command()
def plan(
    name: Deployed, values: Values = None, file: File = None, artifacts: Artifacts = None, as_json: AsJson = False
) -> None:
    """Show what is cached, what will run, why, and at what cost."""
    from flows.planning.plan import make_plan

    where = pipelines_file(file)
    compiled = compiled_graph(where, name, values, artifacts)
    planned = make_plan(compiled, open_store(where, artifacts))
    if as_json:
        print(json_text(planned.as_json()))
        return
    print(escape_control_characters("\n".join([planned.text(), *(f"note: {n}" for n in planned.notices)])))


@app.command()
def run(
    name: Deployed,
    values: Values = None,
    fresh: Annotated[
        list[str] | None, typer.Option(metavar="STEP", help="Compute this step again, whatever the store holds.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Tick even where the deployment is stalled.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Record a new run even if it only repeats a finished one.")
    ] = False,
    file: File = None,
    artifacts: Artifacts = None,
) -> None:
    """Run a pipeline, or `rounds=N` ticks of a continuing deployment; what is in the store is not computed again.

    Where a finished run has the same parameters and all its results are in the store, its table is shown at once.
    """
    from flows.commands.run_ticks import run_named

    where = pipelines_file(file)
    code = run_named(
        where, open_store(where, artifacts), deployment_or_pipeline(where, name), parse_assignments(values), console(),
        fresh=fresh or [], force=force, again=again,
    )  # fmt: skip
    raise typer.Exit(code)


@app.command()
def sweep(
    name: Name,
    values: Values = None,
    again: Annotated[
        bool, typer.Option("--again", help="Record new runs even where they only repeat finished ones.")
    ] = False,
    file: File = None,
    artifacts: Artifacts = None,
) -> None:
    """Run a pipeline for every combination of KEY=V1,V2,…; the runs share what they have in common. Ends with a table
    of them."""
    from flows.commands.sweep import run_sweep as run_all

    where = pipelines_file(file)
    raise typer.Exit(
        run_all(where, open_store(where, artifacts), name, parse_assignments(values), console(), again=again)
    )


@app.command()
def show(
    ref: Ref,
    rows: Annotated[int, typer.Option(min=1, help="Rows or prompts that are shown.")] = 5,
    sort: Annotated[
        Sort,
        typer.Option(
            help="Of answers before and after: the table's first prompts, those where the policy does best or "
            "worst by the oracle, or random ones (the same each time)."
        ),
    ] = Sort.FIRST,
    lineage: Annotated[bool, typer.Option("--lineage", help="Show all of the lineage.")] = False,
    file: File = None,
    artifacts: Artifacts = None,
    as_json: AsJson = False,
) -> None:
    """Look into a run, or into an artifact and where it came from.

    Reports show their numbers; reports and policies show answers of the base and of the policy side by side, with
    P(the policy's answer beats the base's) of that pair.
    """
    from flows.commands.show import show_json, show_text

    store = open_store(None if artifacts else pipelines_file(file), artifacts)
    if as_json:
        print(json_text(show_json(store, ref, rows, sort)))
    else:
        show_text(store, ref, rows, console(), whole=lineage, sort=sort)


@app.command("compare")
def compare_(
    refs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="A run's id, its first letters, `last`, a pipeline for its last "
                       "finished run, or PIPELINE/DEPLOYMENT for its last tick.", show_default=False),
    ],
    rounds: Annotated[bool, typer.Option("--rounds", help="Show every round, not only the last.")] = False,
    unranked: Annotated[
        bool, typer.Option("--unranked", help="Show runs that were measured differently; no ranks, no figures.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the figures go; default: among the artifacts.")
    ] = None,
    file: File = None,
    artifacts: Artifacts = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Set runs beside each other: win rate, gold, KL, cost; who beats whom; figures."""
    from flows.commands.compare import compare_json, compare_text

    store = open_store(None if artifacts else pipelines_file(file), artifacts)
    if as_json:
        print(json_text(compare_json(store, refs, ranked=not unranked, out=out)))
    else:
        compare_text(store, refs, console(), rounds=rounds, ranked=not unranked, out=out)


@app.command()
def rounds(
    name: Deployed,
    back_to: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Go on from what round N left; 0: from the start.")
    ] = None,
    file: File = None,
    artifacts: Artifacts = None,
    as_json: AsJson = False,
) -> None:
    """Show the rounds of a continuing deployment, or roll back its head; nothing is deleted."""
    from flows.commands.rounds import roll_back, rounds_json, rounds_text

    store = open_store(None if artifacts else pipelines_file(file), artifacts)
    find = partial(pipelines_file, file)
    done = None if back_to is None else roll_back(store, name, back_to, find)
    if as_json:
        print(json_text(rounds_json(store, name, find)))
    elif done:
        print(done)
    else:
        rounds_text(store, name, console(), find)


@app.command()
def explain(
    a: Ref, b: Ref, against: Against = None, file: File = None, artifacts: Artifacts = None, as_json: AsJson = False
) -> None:
    """Say where two runs, or two results, part: the first step that differs, and what in its key or its content."""
    from flows.commands.explain import explain_json, explain_text

    store = open_store(None if artifacts else pipelines_file(file), artifacts)
    other = open_store(None, against) if against else store
    print(json_text(explain_json(store, a, other, b)) if as_json else explain_text(store, a, other, b))


@app.command()
def accept(name: Deployed, step: str, values: Values = None, file: File = None, artifacts: Artifacts = None) -> None:
    """Let old results of STEP stand after a harmless edit of code; recorded as accepted."""
    from flows.commands.accept import accept_step

    where = pipelines_file(file)
    compiled = compiled_graph(where, name, values, artifacts)
    for line in accept_step(compiled, open_store(where, artifacts), step):
        print(line)


@app.command()
def export(ref: Ref, directory: Path, file: File = None, artifacts: Artifacts = None) -> None:
    """Write a model as a plain Hugging Face directory, a table as Parquet, an oracle as its specification.

    What training keeps beside a policy (value network, optimizer, checkpoints) is left out: the steps `value_of` and
    `checkpoint_at` give it.
    """
    from flows.commands.export import export_to
    from flows.system.modes import own_umask

    with own_umask():  # what is exported is no part of the store
        store = open_store(None if artifacts else pipelines_file(file), artifacts)
    for path in export_to(store, ref, directory):
        print(path)


@app.command()
def verify(file: File = None, artifacts: Artifacts = None) -> None:
    """Read every result and compare it with its digest; damaged ones are set aside and made again when needed."""
    from flows.commands.maintenance import verify_text

    raise typer.Exit(verify_text(open_store(None if artifacts else pipelines_file(file), artifacts)))


@app.command()
def gc(
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    file: File = None,
    artifacts: Artifacts = None,
) -> None:
    """Reclaim what no record and no ledger names: damaged data, half writes, work left by finished steps."""
    from flows.commands.maintenance import gc_text

    gc_text(open_store(None if artifacts else pipelines_file(file), artifacts), dry=dry)


@app.command()
def deploy(
    name: Annotated[
        str | None, typer.Argument(help="A pipeline, or PIPELINE/DEPLOYMENT; default: all.", show_default=False)
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove deployments that the file no longer has.")] = False,
    prefect_yaml: Annotated[
        bool, typer.Option("--prefect-yaml", help="Write them to prefect.yaml beside the file, and register nothing.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Replace those of the same names that another file or store has there.")
    ] = False,
    pool: Pool = "alignflow",
    file: File = None,
    artifacts: Artifacts = None,
) -> None:
    """Register the deployments of pipelines with Prefect, after all have compiled.

    They are those that the file gives, and for every pipeline one more, `manual`, without a schedule: so each pipeline
    can be run from Prefect's pages, or by `prefect deployment run NAME/manual`. The server is that of `alignflow up`,
    or PREFECT_API_URL.
    """
    from flows.commands import deploy as deploying

    where = pipelines_file(file)
    place = deploying.ServePaths(where.absolute(), artifacts_root(where, artifacts).absolute())
    found = deploying.deployments(where, name, cache=open_store(where, artifacts).python_cache)
    if prefect_yaml:
        print(f"{deploying.write_prefect_yaml(place, found, pool=pool)}: {len(found)} deployments")
        return
    for line in deploying.register_deployments(place, found, pool=pool, prune=prune, only=name, take_over=take_over):
        print(line, flush=True)


@app.command()
def serve(
    pool: Pool = "alignflow",
    limit: Annotated[int, typer.Option(min=1, help="Runs at a time; their heavy steps go one by one.")] = 4,
    file: File = None,
    artifacts: Artifacts = None,
) -> None:
    """Execute scheduled and requested runs of deployments, until Ctrl-C or SIGTERM (exit code 0).

    Its runs are stopped then; what they finished is kept, and the next run goes on there.
    """
    from flows.commands.serve import serve_deployments as work

    where = None if artifacts and not file else pipelines_file(file)
    work(artifacts_root(where, artifacts), file=where, pool=pool, limit=limit)


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Prefect's server and pages.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow's pages.")] = 5000,
    file: File = None,
    artifacts: Artifacts = None,
) -> None:
    """Serve the pages of Prefect and MLflow on loopback, until Ctrl-C or SIGTERM (exit code 0).

    `deploy` and `serve` on the same artifacts use this Prefect server, and its pages show all runs; if one of the two
    ends, so does the other (exit code 1).
    """
    from flows.commands.up import serve_web_uis as serve_pages

    root = artifacts_root(None if artifacts else pipelines_file(file), artifacts)
    serve_pages(root, prefect_port, mlflow_port, link=sys.stdout.isatty())


@app.command()
def schema(file: File = None, artifacts: Artifacts = None) -> None:
    """Print the JSON Schema of pipelines.yaml, for editors."""
    from flows.wiring.schema import json_schema

    print(json_text(json_schema(catalogue_of_file(pipelines_file(file), artifacts))))


add_extend(app)

if __name__ == "__main__":
    main()
