"""The command line: what it answers, how fast, and that a user's mistake is one message and an exit code."""

import io
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.commands.printing import console
from flows.rounds.ledger import Ledger
from flows.run.prefect.server import Server
from flows.store.runs import Runs
from flows.store.store import Store
from tests.flows.commands.processes import ROOT, alignflow, command, place, started
from tests.flows.fabricated import Fabricated, fabricate
from tests.flows.rounds.test_command import PIPELINES
from tests.flows.rounds.test_history import begun

TINY = """
pipelines:
  tiny:
    about: demonstrations learned by heart
    params: {world: toy, size: 20, lr: 1.0e-3, steps: 2, max_length: 100}
    steps:
      data:   {task: load_demonstrations, source: $world, split: sft}
      blank:  {task: init_policy, demonstrations: data}
      part:   {task: take_batch, table: data, index: 1, size: $size}
      policy: {task: train, policy: blank, data: part, loss: sft, lr: $lr, steps: $steps,
                max_length: $max_length}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "pipelines.yaml").write_text(TINY)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    return fabricate(tmp_path_factory.mktemp("made"))


def test_list_and_check_answer_for_people_and_for_scripts(project: Path) -> None:
    assert alignflow("list", cwd=project).stdout == "tiny  demonstrations learned by heart\n"
    assert json.loads(alignflow("list", "--json", cwd=project).stdout) == [
        {"name": "tiny", "about": "demonstrations learned by heart"}
    ]
    assert alignflow("check", cwd=project).stdout.startswith("✓ tiny  5 steps")
    assert json.loads(alignflow("check", "tiny", "--json", cwd=project).stdout)[0]["ok"] is True


def test_the_file_is_found_upwards_and_artifacts_lie_beside_it(project: Path) -> None:
    (project / "deep" / "er").mkdir(parents=True)
    assert alignflow("plan", "tiny", cwd=project / "deep" / "er").stdout.startswith("to run")
    assert not (project / "deep" / "er" / "artifacts").exists()
    assert (project / "artifacts").is_dir()


def test_the_artifacts_folder_may_be_an_option_or_a_variable(project: Path, tmp_path: Path) -> None:
    for how in (("--artifacts", str(tmp_path / "a")), ()):
        alignflow("plan", "tiny", *how, cwd=project, ALIGNFLOW_ARTIFACTS=str(tmp_path / "b"))
    assert (tmp_path / "a").is_dir()
    assert (tmp_path / "b").is_dir()


def test_a_plan_in_json_has_a_state_and_a_reason_for_every_step(project: Path) -> None:
    plan = json.loads(alignflow("plan", "tiny", "steps=3", "--json", cwd=project).stdout)
    assert [s["step"] for s in plan["steps"]] == ["data", "blank", "part", "policy/tokenize", "policy"]
    assert {s["state"] for s in plan["steps"]} == {"run"}
    assert plan["steps"][4]["cost"]["steps"] == 3


def test_the_graph_is_drawn_as_text_and_as_mermaid(project: Path) -> None:
    assert "policy" in alignflow("graph", "tiny", cwd=project).stdout
    assert alignflow("graph", "tiny", "--mermaid", cwd=project).stdout.startswith("flowchart TD\n")
    assert ":::run" in alignflow("graph", "tiny", "--mermaid", "--states", cwd=project).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "tyni"), "'tyni' is not a pipeline of this file; choose one of [tiny]"),
        (("run", "tiny", "sise=3"), "did you mean 'size'"),
        (("plan", "tiny", "size"), "'size' is not of the form key=value"),
        (("plan", "tiny", "size=3", "size=4"), "'size' is given twice"), (("plan", "tiny", "size=many"), "size"),
        (("show", "nothing"), "names nothing"), (("show", "last"), "there are no runs yet"),
        (("run", "tiny", "--fresh", "polcy"), "did you mean 'policy'"),
        (("list", "--file", "none.yaml"), "there is no file none.yaml"), (("list", "--jsn"), "--json"),
        (("run", "tiny", "--profile", "two"), "there is no profile 'two'; choose one of [local]"),
        (("sweep", "tiny", "--profile", "two"), "there is no profile 'two'"),
        (("deploy", "--profile", "two"), "there is no profile 'two'"),
        (("accept", "tiny", "data"), "'data' has no former result"), (("sweep", "tiny", "size=1,[2"), "cannot split"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_message_and_exit_code_2(
    project: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = alignflow(*arguments, "--artifacts", str(project / "empty"), cwd=project, code=2)
    assert message in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "last", "last", "--artifacts", "{made}", "--out", "/proc/nope"), "/proc/nope: "),
        (("gc", "--artifacts", "{file}"), "there are no artifacts in"),
        (("up", "--artifacts", "{file}", "--prefect-port", "4999"), "pipelines.yaml"),
        (("plan", "tiny", "--artifacts", "{file}"), "pipelines.yaml"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_line(
    project: Path, made: Fabricated, arguments: tuple[str, ...], message: str
) -> None:
    command = [a.format(made=made.store.root, file=project / "pipelines.yaml") for a in arguments]
    err = alignflow(*command, cwd=project, code=2).stderr
    assert message in err
    assert err.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_failure(project: Path) -> None:
    command = f"{sys.executable} -m flows.cli graph tiny --file {project / 'pipelines.yaml'}"
    for reader in ("true", "head -n 1"):
        piped = f"{{ {command}; echo code $? >&2; }} | {reader}"
        done = subprocess.run(["bash", "-c", piped], cwd=ROOT, env=place(), capture_output=True, text=True, check=False)
        assert done.stderr == "code 0\n"


def test_a_run_goes_on_where_its_reader_leaves() -> None:
    """Rich by itself ends the process."""

    class Left(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    printing = console()
    printing.file = Left()
    printing.print("a line that nobody reads")
    printing.print("and another")
    assert printing.quiet


def test_manual_is_the_pipeline_itself_unless_the_file_has_one(project: Path, tmp_path: Path) -> None:
    for name in ("plan", "graph", "check"):
        assert alignflow(name, "tiny/manual", cwd=project).stdout == alignflow(name, "tiny", cwd=project).stdout
    own = TINY + "    deployments: {manual: {schedule: {cron: '0 3 * * *'}}}\n"
    (tmp_path / "pipelines.yaml").write_text(own)
    assert "tiny/manual" in alignflow("check", "tiny/manual", cwd=tmp_path).stdout
    assert "no deployment 'nightly'" in alignflow("plan", "tiny/nightly", cwd=project, code=2).stderr


def test_a_broken_pipeline_is_an_error_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "pipelines.yaml").write_text(TINY.replace("task: take_batch,", "task: take_bach,"))
    done = alignflow("check", cwd=tmp_path, code=2)
    assert "pipelines.yaml:9:" in done.stdout
    assert "did you mean 'take_batch'" in done.stdout


def test_without_a_file_the_error_shows_what_to_do(tmp_path: Path) -> None:
    assert "name it with --file" in alignflow("list", cwd=tmp_path, code=2).stderr


def test_show_needs_no_pipelines_file_where_artifacts_are_named(made: Fabricated, tmp_path: Path) -> None:
    out = alignflow("show", "last:report", "--artifacts", str(made.store.root), cwd=tmp_path).stdout
    assert "good question ! the swan lives in the swamp . @2" in out
    data = json.loads(alignflow("show", "last", "--json", "--artifacts", str(made.store.root), cwd=tmp_path).stdout)
    assert len(data["steps"]) == len(made.graph.nodes)


def _processor_seconds(*arguments: str, cwd: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command("alignflow", *arguments, cwd=cwd)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_light_commands_answer_in_about_half_a_second(made: Fabricated, project: Path) -> None:
    """Counted in processor time, of which a busy machine takes twice as much; alone they take 0.2 to 0.7 s."""
    store = ("--artifacts", str(made.store.root))
    for arguments in (["list"], ["check"], ["graph", "tiny"], ["plan", "tiny"], ["show", "last", *store]):
        assert any(_processor_seconds(*arguments, cwd=project) < 1.5 for _ in range(3)), arguments


LOOKS = """
import sys
from flows.cli import main
for arguments in LOOKS:
    sys.argv = ["alignflow", *arguments]
    try:
        main()
    except SystemExit as e:
        assert not e.code, arguments
    heavy = {"torch", "transformers", "vllm", "prefect", "mlflow", "matplotlib"}
    print("LOADED", arguments[0], *sorted(heavy & set(sys.modules)))
"""


def test_commands_that_only_look_import_nothing_heavy_and_compare_only_what_draws(
    made: Fabricated, tmp_path: Path
) -> None:
    (tmp_path / "pipelines.yaml").write_text(PIPELINES)
    Ledger(made.store, "growing-pool", "every-night").append(begun(1, size=20))
    deployment = "growing-pool/every-night"
    looks = [
        ["rounds", deployment], ["plan", deployment], ["graph", deployment], ["show", "last"], ["show", "last:report"],
        ["explain", "last", "last"], ["compare", "last"],
    ]  # fmt: skip
    code = LOOKS.replace("LOOKS", repr([[*look, "--artifacts", str(made.store.root)] for look in looks]))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=place(), capture_output=True, text=True)
    loaded = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert loaded == [*([look[0]] for look in looks[:-1]), ["compare", "matplotlib"]], done.stderr


def _steps(project: Path) -> dict[str, str]:
    run = next(Runs(Store(project / "artifacts")).newest())
    return {s.id: s.state for s in run.steps.values()}


LISTED = """
import sys
from flows.cli import main
sys.argv[0] = "alignflow"
try:
    main()
finally:
    print([m for m in ("prefect", "mlflow", "torch", "matplotlib") if m in sys.modules], file=sys.stderr)
"""


def test_a_run_ends_with_where_to_look_and_a_second_one_does_nothing(project: Path, prefect_server: Server) -> None:
    first = command("alignflow", "run", "tiny", cwd=project)
    assert "tiny: done in" in first
    assert "5 steps run, 0 cached" in first
    assert "web UIs alignflow up" in " ".join(first.split())
    assert "training_policy.png" in first
    made = Runs(Store(project / "artifacts")).ids()
    second = subprocess.run(
        [sys.executable, "-c", LISTED, "run", "tiny"], cwd=project, env=place(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert second.stdout.startswith(f"tiny: nothing to do: run {made[0]} has the same parameters")
    assert second.stderr == "[]\n"
    assert Runs(Store(project / "artifacts")).ids() == made
    assert second.stdout.partition("\n")[2] == first[first.index("tiny: done in") :].partition("\n")[2]
    fresh = command("alignflow", "run", "tiny", "--fresh", "part", cwd=project, **prefect_server.client)
    assert "1 steps run, 4 cached" in fresh
    assert _steps(project)["part"] == "made"
    plan = json.loads(alignflow("plan", "tiny", "steps=3", "--json", cwd=project).stdout)
    assert plan["counts"] == {"cached": 4, "partial": 0, "run": 1, "open": 0}
    assert "`steps` changed 2 → 3" in plan["steps"][-1]["why"]


def test_again_records_a_new_run_that_computes_nothing(project: Path) -> None:
    before = Runs(Store(project / "artifacts")).ids()
    assert "nothing to compute: 5 steps cached" in command("alignflow", "run", "tiny", "--again", cwd=project)
    assert len(Runs(Store(project / "artifacts")).ids()) == len(before) + 1
    assert set(_steps(project).values()) == {"hit"}


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(project: Path) -> None:
    with started("run", "tiny", "steps=100000", cwd=project, log=project / "stopped.log") as running:
        running.wait_for("policy: fit")
        time.sleep(1)
        assert running.end(signal.SIGINT) == 130, running.output
    assert "Traceback" not in running.output
    assert "go on with: alignflow run tiny steps=100000" in running.output
    assert _steps(project)["policy"] == "stopped"


def test_a_step_that_fails_ends_with_exit_code_1_and_its_reason(project: Path, prefect_server: Server) -> None:
    done = command("alignflow", "run", "tiny", "max_length=2", cwd=project, code=1, **prefect_server.client)
    assert "✗ policy/tokenize: " in done
    assert "tiny: failed" in done
